from dataclasses import dataclass, field
from typing import Dict, List, Optional, Tuple

__all__ = ['Member']


@dataclass
class Member:
    """A branch, or the ensemble, as it was published.

    Attributes:
        name (str): Its name in the cohort.
        model_name (str): Its name among all models.
        folder (str): Where it lies in the publication; empty if at its top.
        network (str): What network it is.
        weights (str): Name of its checkpoint.
        sha256 (str): Hash of that file.
        sizes (dict[str, int]): Size in bytes of each file.
        parameters (int): Number of parameters.
        flops (int, optional): Multiply-adds of one image.
        latency (float): Median seconds for one image on the CPU.
        input_shape (tuple[int, int, int]): Channels, height and width.
        channel_order (str): The order of the channels that the data give.
        needs_plugin (bool): Whether this plugin must be installed to use it.
        own_packages (list[str]): Packages of the user's own that must be.
        metrics (dict[str, float]): ``top1`` and ``top5`` in percent, of the
            written file.
        solo (dict[str, float]): The same of the solo baseline, if any.
        test_output (list[str]): Lines that its test prints.
        figures (dict[str, str]): Captions by file.
    """

    name: str
    model_name: str
    folder: str
    network: str
    weights: str
    sha256: str
    sizes: Dict[str, int]
    parameters: int
    flops: Optional[int]
    latency: float
    input_shape: Tuple[int, int, int]
    channel_order: str
    needs_plugin: bool
    own_packages: List[str]
    metrics: Dict[str, float]
    solo: Dict[str, float] = field(default_factory=dict)
    test_output: List[str] = field(default_factory=list)
    figures: Dict[str, str] = field(default_factory=dict)

    def path(self, file: str) -> str:
        """The place of one of its files in the publication.

        Args:
            file (str): The file's name.

        Returns:
            str: The path with slashes.
        """
        return f'{self.folder}/{file}' if self.folder else file
