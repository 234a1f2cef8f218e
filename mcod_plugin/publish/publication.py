"""What was published."""
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Tuple

from mcod_plugin.runs.tables import render
from mcod_plugin.utils.units import file_size
from .data_facts import DataFacts
from .licenses import UNKNOWN, Start, start_weights
from .trained_run import TrainedRun

__all__ = ['Hub', 'Member', 'Publication', 'summary']


@dataclass(frozen=True)
class Hub:
    """Where a publication lies on the Hugging Face hub.

    Attributes:
        endpoint (str): The address of the hub.
        repos (dict[str, str]): By folder of the publication its repository,
            ``USER/REPO``; under an empty name that of the cohort.
    """

    endpoint: str
    repos: Dict[str, str]


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
        by_path (bool): Whether MMPretrain's inferencer takes the path of an
            image, since its data are files.
        interpolation (str): How images are resized, as timm calls it.
        timm (bool): Whether timm opens its folder.
        license (str): Its licence, as the hub names it.
        needs_timm (bool): Whether timm must be installed to use it.
        needs_plugin (bool): Whether this plugin must be installed to use it.
        own_packages (list[str]): Packages of the user's own that must be.
        metrics (dict[str, float]): ``top1`` and ``top5`` in percent, of the
            written file.
        calibration_error (float): See :func:`calibration_error`.
        solo (dict[str, float]): The same of the solo baseline, if any.
        test_output (list[str]): Lines that its test prints.
        captions (dict[str, str]): Captions of its figures by file.
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
    by_path: bool
    interpolation: str
    timm: bool
    license: str
    needs_timm: bool
    needs_plugin: bool
    own_packages: List[str]
    metrics: Dict[str, float]
    calibration_error: float
    solo: Dict[str, float] = field(default_factory=dict)
    test_output: List[str] = field(default_factory=list)
    captions: Dict[str, str] = field(default_factory=dict)

    def path(self, file: str) -> str:
        """The place of one of its files in the publication, with slashes."""
        return f'{self.folder}/{file}' if self.folder else file


@dataclass
class Publication:
    """A cohort as it was published.

    Attributes:
        name (str): Its name.
        place (str): Its folder, as commands name it.
        run (TrainedRun): The run that it comes from.
        solo (TrainedRun, optional): The run of the solo baseline.
        branches (list[Member]): The branches, the best first.
        ensemble (Member): The ensemble.
        data (DataFacts): The data set.
        split (str, optional): The split of it that was evaluated on.
        part (dict): Settings that select a part of that, if any.
        images (int): Number of images that were evaluated on.
        disagreement (float): Share of the images on which two branches
            differ.
        machine (dict): What it was published on, see
            :func:`describe_machine`.
        cpu (str): The processor on which latencies were measured.
    """

    name: str
    place: str
    run: TrainedRun
    solo: Optional[TrainedRun]
    branches: List[Member]
    ensemble: Member
    data: DataFacts
    split: Optional[str]
    part: Dict[str, Any]
    images: int
    disagreement: float
    machine: Dict[str, Any]
    cpu: str

    @property
    def evaluated_on(self) -> str:
        """What the accuracies are of, in words."""
        words = [self.data.name]
        if self.split is not None:
            words.append(f'split {self.split}')
        words += [f'{key}={value!r}' for key, value in self.part.items()]
        return (f'{self.images:,} images of the {self.run.held_out} data '
                f'({", ".join(words)})')

    @property
    def starts(self) -> List[Start]:
        """The weights that branches began with."""
        return start_weights(self.run)

    @property
    def members(self) -> List[Member]:
        """All of them, the ensemble last."""
        return [*self.branches, self.ensemble]


def summary(publication: Publication, out: str, dry_run: bool = False) -> str:
    """What was published: a table of the branches, ranked, and where their
    cards lie.

    Args:
        publication (Publication): What was published.
        out (str): The folder.
        dry_run (bool): Whether nothing was written. Defaults to False.

    Returns:
        str: The lines.
    """
    header = ['', 'top-1 %', 'parameters', 'ms', 'card', 'size of all files']
    rows = [[
        member.name, f'{member.metrics["top1"]:.2f}', f'{member.parameters:,}',
        f'{1000 * member.latency:.2f}',
        member.path('README.md'),
        file_size(sum(member.sizes.values()))
    ] for member in publication.members]
    if publication.solo is not None:
        header.insert(2, 'over solo')
        for row, member in zip(rows, publication.members):
            gain = member.metrics['top1'] - member.solo['top1']
            row.insert(2, f'{gain:+.2f}')
    lines = [
        render(header, rows), f'Evaluated on {publication.evaluated_on}.',
        f'Data: {publication.data.name}. Licence: '
        f'{publication.ensemble.license}.'
    ]
    if publication.ensemble.license == UNKNOWN:
        lines.append('Name a licence with --license, so that others know '
                     'whether they may use the weights.')
    lines.append(f'Dry run: nothing was written to {out}.'
                 if dry_run else f'Published in {out}.')
    return '\n'.join(lines)
