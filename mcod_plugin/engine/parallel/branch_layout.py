from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, Mapping, Optional

import torch.nn as nn
from mmengine.dist import gather_object
from mmengine.utils import apply_to

from mcod_plugin.models.utils.branch_peers import BranchPeers, RemoteBranch
from mcod_plugin.runs.tables import render
from mcod_plugin.utils.mesh import branch_size, data_rank, host_group
from ..hooks.cohort_report_hook import branch_facts
from .checkpoints import merged
from .deal import deal, speed_bound

__all__ = ['BranchLayout']

# What a step costs in forward passes: a backward pass costs two.
FROZEN, TRAINED, RECOMPUTED = 1, 3, 4


class BranchLayout:
    """Which branches of a cohort live in which process.

    A cohort is built whole in each process, so that its weights begin as they
    would in one process. Then the branches of others are replaced by
    :class:`RemoteBranch`; their memory is free once weights are initialised.

    Args:
        model (MultiBackboneClassifier): The cohort, which is changed.

    Attributes:
        shares (list[list[str]]): Names of the branches of each process along
            the axis of branches.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        names = list(model.branches)
        facts = {name: branch_facts(model, name) for name in names}
        self._costs = branch_costs(model, facts)
        self.shares = deal(self._costs, branch_size(), model.frozen)
        model.peers = BranchPeers(self.shares, names)
        self._away: Dict[str, nn.Module] = {}
        for name in model.peers.away:
            self._away[name] = model.branches[name]
            model.branches[name] = RemoteBranch(facts[name])

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Have the cohort whole for the last time, on the device of the
        rest, and forget the branches of others then."""
        model = self._model
        device = next(model.parameters()).device
        peers, model.peers = model.peers, None
        remote = {name: model.branches[name] for name in self._away}
        for name, branch in self._away.items():
            model.branches[name] = branch.to(device)
        try:
            yield
        finally:
            model.peers = peers
            for name, branch in remote.items():
                model.branches[name] = branch
            self._away = {}

    def collect(self, part: Dict[str, Any]) -> Optional[Dict[str, Any]]:
        """Make one checkpoint, on rank 0 only, of what each process would
        save. All processes call this."""
        if data_rank() > 0:
            # They have the same as those with the first share of images.
            return None
        part = apply_to(part, lambda value: hasattr(value, 'cpu'),
                        lambda value: value.cpu())
        parts = gather_object(part, 0, host_group())
        if parts is None:
            return None
        return merged(parts, list(self._model.branches))

    def table(self) -> str:
        """Who has what, and how fast that can be."""
        total = sum(self._costs.values())
        rows: List[tuple] = []
        for place, names in enumerate(self.shares):
            cost = sum(self._costs[name] for name in names)
            rows.append((str(place), ', '.join(names),
                         f'{cost / total:.0%}' if total else '-'))
        bound = speed_bound(self._costs, self.shares)
        return (render(('process', 'branches', 'share of the work'), rows) +
                f'\nAt most {bound:.2f} times as fast as in one process.')


def branch_costs(model: nn.Module, found: Mapping[str,
                                                  tuple]) -> Dict[str, float]:
    """What a training step costs by branch: FLOPs, see :func:`branch_facts`;
    the number of parameters instead if those of any branch cannot be
    counted."""
    sizes = {name: facts[2] for name, facts in found.items()}
    if None in sizes.values():
        sizes = {name: facts[1] for name, facts in found.items()}
    passes = {
        name:
        FROZEN
        if settings.frozen else RECOMPUTED if settings.recompute else TRAINED
        for name, settings in model.branch_settings.items()
    }
    return {name: passes[name] * size for name, size in sizes.items()}
