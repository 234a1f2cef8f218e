import copy
import sys
from functools import lru_cache
from typing import Dict, Iterable, Mapping
from weakref import WeakSet

import torch
import torch.nn as nn
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.optim.swa_utils import get_ema_multi_avg_fn

from mcod_plugin.errors import ConfigError, one_line
from .branch_settings import freeze
from .pretrained import take_pretrained

__all__ = ['BranchAverages']


class BranchAverages:
    r"""Exponential moving averages of branches, which follow their training.

    After each step of an optimizer that has parameters of a branch, whoever
    runs the loop, the parameters of its average become

    .. math::
        \bar\theta \leftarrow d\, \bar\theta + (1 - d)\, \theta

    and its buffers, such as the statistics of batch norm, copies of the
    branch's. The passes of an accumulated step, and steps that a gradient
    scaler skips, do not count, nor does one that leaves a branch out because
    it has no gradients. One optimizer within another, as in a
    ``ZeroRedundancyOptimizer``, makes one step with it.

    The averages have no gradients and stay in eval mode. They are copies made
    before a branch is compiled, and are not compiled.

    Args:
        decay (float): How much :math:`d` of an average is kept in a step.

    Attributes:
        networks (nn.ModuleDict): The averages by branch.
    """

    def __init__(self, decay: float) -> None:
        self.networks = _Networks()
        self._decay = decay
        self._branches: Dict[str, nn.Module] = {}
        _listen(self)

    def __setstate__(self, state: dict) -> None:
        """A copy follows the copies of the branches."""
        self.__dict__.update(state)
        _listen(self)

    def begin(self, branches: Mapping[str, nn.Module]) -> None:
        """Begin anew at the present weights of the branches, which must be
        ones that can be copied."""
        if self._branches != dict(branches):
            self._branches = dict(branches)
            self.networks.clear()
            for name, branch in branches.items():
                self.networks[name] = _copy(name, branch)
            return
        for name, branch in branches.items():
            average = self.networks[name]
            _copy_values(average.parameters(), branch.parameters())
            _copy_values(average.buffers(), branch.buffers())

    def after_step(self, optimizer: Optimizer) -> None:
        """Take a step of an optimizer into account. If it has no parameter of
        a branch, or none of them has a gradient, the average of this stays as
        it is."""
        held = {
            id(parameter)
            for group in optimizer.param_groups
            for parameter in group['params'] if parameter.grad is not None
        }
        move = get_ema_multi_avg_fn(self._decay)
        for name, branch in self._branches.items():
            values = list(branch.parameters())
            if held.isdisjoint(map(id, values)):
                continue
            average = self.networks[name]
            move(list(average.parameters()), values, None)
            _copy_values(average.buffers(), branch.buffers())

    def logits(self, images: Mapping[str, Tensor]) -> Dict[str, Tensor]:
        """The logits ``(N, C)`` that the averages predict for images ``(N, C,
        H, W)`` by branch, in at least single precision also under AMP."""
        found = {
            name: network(images[name])
            for name, network in self.networks.items()
        }
        return {
            name: score.to(torch.promote_types(score.dtype, torch.float))
            for name, score in found.items()
        }


class _Networks(nn.ModuleDict):
    """Networks that stay in eval mode."""

    def train(self, mode: bool = True) -> '_Networks':
        return super().train(False)


def _copy(name: str, branch: nn.Module) -> nn.Module:
    """A copy of a branch that is not trained."""
    try:
        copied = copy.deepcopy(branch)
    except Exception as error:
        raise ConfigError(
            f'model.teacher.ema needs a copy of model.branches.{name}, which '
            f'cannot be made: {one_line(error)}') from error
    # It begins with what the branch begins with.
    take_pretrained(copied)
    freeze(copied)
    return copied


@torch.no_grad()
def _copy_values(values: Iterable[Tensor], others: Iterable[Tensor]) -> None:
    for value, other in zip(values, others):
        value.copy_(other)


# All that live. A hook of each optimizer by itself would have to be set by
# every loop, and would be missed by one that does not know of it.
_LISTENING: 'WeakSet[BranchAverages]' = WeakSet()


def _listen(averages: BranchAverages) -> None:
    """Have averages hear of the steps of optimizers as long as they live."""
    _hook_optimizers()
    _LISTENING.add(averages)


@lru_cache(maxsize=None)
def _hook_optimizers() -> None:
    """Once in a process, and only where there are averages."""

    def after_step(optimizer: Optimizer, args: tuple, kwargs: dict) -> None:
        # PyTorch wraps the step of each optimizer, which calls this. Only the
        # stack tells whether the step is a part of another one: of a step
        # that fails nobody is told.
        wrapper = sys._getframe(1)
        frame = wrapper.f_back
        while frame is not None and frame.f_code is not wrapper.f_code:
            frame = frame.f_back
        if frame is None:
            for averages in _LISTENING:
                averages.after_step(optimizer)

    register_optimizer_step_post_hook(after_step)
