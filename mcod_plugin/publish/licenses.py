"""The weights that a cohort began with, and under which licence it is
published."""
import os.path as osp
from typing import Any, Iterator, List, NamedTuple, Optional
from urllib.parse import urlsplit

from mmpretrain.models import TIMMBackbone, TimmClassifier

from mcod_plugin.config.parts import is_part, walk
from mcod_plugin.config.pretrained import checkpoints
from .trained_run import TrainedRun

__all__ = ['UNKNOWN', 'Start', 'member_license', 'start_weights']

# As the Hugging Face hub has it.
UNKNOWN = 'unknown'
# Settings by which a network of timm has other weights than those of its name.
OTHER_WEIGHTS = ('checkpoint_path', 'pretrained_cfg', 'pretrained_cfg_overlay')


class Start(NamedTuple):
    """Weights that a branch began with.

    Attributes:
        branch (str): The branch.
        weights (str): What they are.
        license (str, optional): Their licence, if it is known.
        hub (str, optional): Their repository on the Hugging Face hub.
    """

    branch: str
    weights: str
    license: Optional[str] = None
    hub: Optional[str] = None


def start_weights(run: TrainedRun) -> List[Start]:
    """The weights that the branches of a run began with: for each branch all
    sources, since one may leave out what another has. Of files on this machine
    the name alone."""
    cohort = dict(init_cfg=run.cfg.model.get('init_cfg'))
    shared = [_public(source) for source in checkpoints(cohort)]
    if run.loaded:
        shared.append(_public(run.loaded))
    found = []
    for name in run.pretrained:
        own = list(_of_branch(name, run.branches[name]))
        own += [Start(name, weights) for weights in shared]
        found += own or [Start(name, 'a checkpoint')]
    return found


def member_license(given: Optional[str], starts: List[Start],
                   frozen: bool) -> str:
    """The licence of what is published of a branch: the one that whoever
    publishes has named; of a branch that only taught, and so still has the
    weights that it began with, theirs. ``'unknown'`` if nobody has told it."""
    if frozen and starts:
        found = {start.license for start in starts}
        return found.pop() or UNKNOWN if len(found) == 1 else UNKNOWN
    return given or UNKNOWN


def _of_branch(name: str, cfg: Any) -> Iterator[Start]:
    """What the config of a branch asks for."""
    of_timm = []
    for _, part in walk(cfg):
        if (is_part(part, (TIMMBackbone, TimmClassifier))
                and part.get('pretrained') is True
                and not any(part.get(key) for key in OTHER_WEIGHTS)):
            of_timm.append(part['model_name'])
    for source in checkpoints(cfg):
        if source in of_timm:
            yield _of_timm(name, source)
        else:
            yield Start(name, _public(source))


def _of_timm(name: str, network: str) -> Start:
    """Of timm's own name of a network, or the name of a repository."""
    import timm
    scheme, _, place = network.rpartition(':')
    if scheme and not place.startswith('timm/'):
        return Start(name, place, hub=place if 'hub' in scheme else None)
    network = place.removeprefix('timm/')
    try:
        settings = timm.get_pretrained_cfg(network)
    except RuntimeError:
        # This version does not know the tag.
        settings = None
    license = settings and settings.license
    if settings and settings.tag and '.' not in network:
        network = f'{network}.{settings.tag}'
    return Start(name, f'timm/{network}',
                 None if license == UNKNOWN else license, f'timm/{network}')


def _public(source: str) -> str:
    """An address or a path without what is of its user only."""
    parts = urlsplit(source)
    if parts.scheme in ('', 'file') or not parts.hostname:
        return osp.basename(source)
    return f'{parts.scheme}://{parts.hostname}{parts.path}'
