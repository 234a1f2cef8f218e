from dataclasses import dataclass
from typing import Any, Dict, List, Optional

from .data_facts import DataFacts
from .ended_run import EndedRun
from .member import Member

__all__ = ['Publication']


@dataclass
class Publication:
    """A cohort as it was published.

    Attributes:
        name (str): Its name.
        place (str): Its folder, as commands name it.
        run (EndedRun): The run that it comes from.
        solo (EndedRun, optional): The run of the solo baseline.
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
        runs (int): How often latencies were measured.
        threads (int): Threads of PyTorch for latencies.
    """

    name: str
    place: str
    run: EndedRun
    solo: Optional[EndedRun]
    branches: List[Member]
    ensemble: Member
    data: DataFacts
    split: Optional[str]
    part: Dict[str, Any]
    images: int
    disagreement: float
    machine: Dict[str, Any]
    cpu: str
    runs: int
    threads: int

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
    def members(self) -> List[Member]:
        """All of them, the ensemble last."""
        return [*self.branches, self.ensemble]
