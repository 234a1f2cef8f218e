"""Under which licence a cohort may be published."""
import os.path as osp
from typing import List, NamedTuple, Optional

from mcod_plugin.config.pretrained import checkpoints
from .trained_run import TrainedRun

__all__ = ['OWN', 'Start', 'published_license', 'start_weights']

# What is trained from scratch has the licence of the code.
OWN = 'apache-2.0'


class Start(NamedTuple):
    """Weights that a branch began with.

    Attributes:
        branch (str): The branch.
        weights (str): What they are.
        license (str, optional): Their licence, if it is known.
    """

    branch: str
    weights: str
    license: Optional[str]


def start_weights(run: TrainedRun) -> List[Start]:
    """The weights that the branches of a run began with.

    Args:
        run (TrainedRun): The run.

    Returns:
        list[Start]: One for each source of each branch. Of files on this
        machine the name alone.
    """
    model = run.cfg.model
    cohort = dict(init_cfg=model.get('init_cfg'))
    loaded = [run.cfg.get('load_from') or 'a checkpoint']
    return [
        _start(name, source) for name in run.pretrained
        for source in (list(checkpoints(run.branches[name]))
                       or list(checkpoints(cohort)) or loaded)
    ]


def published_license(starts: List[Start]) -> str:
    """The licence that what is published has if nobody names another.

    Args:
        starts (list[Start]): The weights that it began with.

    Returns:
        str: That of the code, if all of them have it, or there are none; else
        ``'other'``, since theirs may bind what was made of them.
    """
    return OWN if {start.license for start in starts} <= {OWN} else 'other'


def _start(name: str, source: str) -> Start:
    source = source.removeprefix('hf-hub:').removeprefix('hf_hub:')
    network = source.removeprefix('timm/')
    try:
        import timm
        license = timm.get_pretrained_cfg(network).license
    except Exception:
        # It is no name of timm's.
        weights = source if '://' in source else osp.basename(source)
        return Start(name, weights, None)
    return Start(name, f'timm/{network}',
                 None if license == 'unknown' else license)
