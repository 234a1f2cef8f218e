import math
from functools import partial
from typing import (Any, Callable, Dict, Iterable, Mapping, Optional, Sequence,
                    Set, Tuple)

import torch
import torch.nn as nn
from mmengine.dist import all_reduce, is_distributed
from torch import Tensor

__all__ = ['DivergenceMask', 'fill_diverged']


class DivergenceMask(nn.Module):
    """Which branches of a cohort are left out because they have diverged, and
    what is computed without them.

    A branch has diverged when its logits or its losses are not finite (a
    class may be ruled out by -inf). All of it happens on the device: the host
    need not look.

    Args:
        names (Iterable[str]): Names of the branches.

    Attributes:
        alive (Tensor): Booleans ``(number of branches, )``: False for those
            that are left out.
        active (bool): Whether branches are left out at all.
        left_out (set[str]): Names of those that the host knows to be left
            out, see :meth:`leave_out`.
    """

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__()
        self.names = list(names)
        self.active = False
        self.left_out: Set[str] = set()
        self._scaled = False
        self._guarded = False
        # It belongs to a run, not to the weights of the branches.
        self.register_buffer(
            'alive',
            torch.ones(len(self.names), dtype=torch.bool),
            persistent=False)

    def activate(self, branches: Mapping[str, nn.Module],
                 scaled: Optional[bool]) -> None:
        """From now on, leave out each branch that diverges; for ``scaled`` see
        :meth:`MultiBackboneClassifier.leave_out_diverged`, None is as
        before."""
        if scaled is not None:
            self._scaled = scaled
        self.active = True
        if self._guarded:
            return
        self._guarded = True
        for index, name in enumerate(self.names):
            for parameter in branches[name].parameters():
                if parameter.requires_grad:
                    parameter.register_hook(partial(self._own_gradient, index))

    def __getstate__(self) -> Dict[str, Any]:
        # The parameters of a copy come without the hooks.
        return {**vars(self), '_guarded': False}

    def leave_out(self, names: Iterable[str]) -> None:
        """Leave out some branches; names of none are passed over."""
        self.left_out.update(set(names).intersection(self.names))
        for name in self.left_out:
            self.alive[self.names.index(name)] = False

    def _own_gradient(self, index: int, gradient: Tensor) -> Tensor:
        """The gradient of a branch; 0 if the branch is left out."""
        if self._scaled:
            return torch.where(self.alive[index], gradient, 0.)
        # That of a branch which is left out is 0 or 0 times something.
        return gradient.nan_to_num(0., 0., 0.)

    def flags(self) -> Optional[Dict[str, Tensor]]:
        """Whether each branch takes part, as boolean scalars by name; None
        if none is ever left out."""
        if not self.active:
            return None
        return dict(zip(self.names, self.alive.unbind()))

    def detect(self, logits: Dict[str, Tensor],
             losses: Dict[str, Tensor]) -> Optional[Dict[str, Tensor]]:
        """Find the branches that diverge in this step, by their logits ``(N,
        C)`` and their own losses, whose names begin with that of the branch
        and a dot. The :meth:`flags` are what this step's graph may keep."""
        if not self.active:
            return None
        # NaN or inf if a logit is, -inf if all of an image's are.
        sums = torch.stack([value.detach() for value in logits.values()])
        finite = sums.logsumexp(-1).isfinite().all(1)
        totals = [
            sum((value.detach().sum() for key, value in losses.items()
                 if key.startswith(f'{name}.') and 'loss' in key),
                score.new_zeros(())) for name, score in logits.items()
        ]
        alive = self.alive & finite & torch.stack(totals).isfinite()
        if is_distributed():
            # The ranks see other images.
            shared = alive.to(torch.uint8)
            all_reduce(shared, 'min')
            alive = shared.bool()
        # In place, where a CUDA graph and the hooks of gradients look for it;
        # the copy is what this step's graph keeps.
        self.alive.copy_(alive)
        return dict(zip(logits, alive.unbind()))

    def call_teacher(self, teacher: nn.Module, call: Callable,
                     logits: Dict[str, Tensor],
                     alive: Optional[Dict[str, Tensor]], *args: Any,
                     **kwargs: Any) -> Any:
        """Call a teacher, or one of its methods, without the branches that are
        left out by the :meth:`flags`."""
        if alive is None:
            return call(logits, *args, **kwargs)
        present = {
            name: torch.where(alive[name], value, 0.)
            for name, value in logits.items()
        }
        if teacher.takes_alive:
            return call(present, *args, alive=alive, **kwargs)
        number = sum(alive.values())
        others = sum(value.detach() for value in present.values()) / number
        return call(
            {
                name: torch.where(alive[name], value, others)
                for name, value in logits.items()
            }, *args, **kwargs)

    def present_feats(
        self, part: nn.Module, feats: Optional[Dict[str, tuple]],
        alive: Optional[Dict[str, Tensor]]) -> Optional[Dict[str, tuple]]:
        """The features that a teacher or a loss is given: 0 of branches that
        are left out, unless it looks for itself."""
        if feats is None or alive is None or part.takes_alive:
            return feats
        return {
            name: tuple(torch.where(alive[name], value, 0.) for value in own)
            for name, own in feats.items()
        }

    def call_loss(self, distill: nn.Module, students: Tensor, target: Tensor,
                  alive: Optional[Sequence[Tensor]],
                  **kwargs: Any) -> Tuple[Any, Optional[Tensor]]:
        """Call a distillation loss without numbers of branches that are left
        out: 0 times NaN would be their gradient. Returned are what it gives,
        and which of the B branches have somebody to learn from, as booleans
        ``(B, )``; None if none is ever left out."""
        if alive is None:
            return distill(students, target, **kwargs), None
        learning = torch.stack(list(alive))
        students = torch.where(learning[:, None, None], students, 0.)
        taught = ~target.isnan().flatten(-2).any(-1)
        target = torch.where(taught[..., None, None], target, 0.)
        if distill.takes_alive:
            kwargs['alive'] = taught
        if distill.per_peer:
            taught = taught.any(-1)
        return distill(students, target, **kwargs), learning & taught

    def mask_overflow(self, names: Iterable[str],
                         learning: Optional[Tensor],
                         distances: Tensor) -> Tensor:
        """The distillation losses ``(B, )`` of those that learn, see
        :meth:`call_loss`, 0 for the others. A branch is left out if its loss
        is not finite."""
        if learning is None:
            return distances
        finite = distances.detach().isfinite()
        going_on = dict(zip(names, (finite | ~learning).unbind()))
        for index, name in enumerate(self.names):
            if name in going_on:
                self.alive[index].logical_and_(going_on[name])
        return torch.where(learning & finite, distances, 0.)

    def mark(self, values: Dict[str, Tensor]) -> Dict[str, Tensor]:
        """What is logged by name, with NaN for a branch that is left out."""
        return fill_diverged(values, self.flags(), math.nan)


def fill_diverged(values: Dict[str, Any], alive: Optional[Dict[str, Tensor]],
                  number: float) -> Dict[str, Any]:
    """Values of a step, with a number in the place of the losses of branches
    that are left out, see :meth:`DivergenceMask.flags`. The name of such a
    loss begins with that of its branch and a dot."""
    filled = dict(values)
    for key, value in values.items():
        name = key.partition('.')[0]
        if alive is not None and name in alive and 'loss' in key:
            filled[key] = torch.where(alive[name], value, number)
    return filled
