from collections import defaultdict
from typing import Dict, List, Mapping, Optional

import torch
import torch.nn as nn
from mmengine.logging import MessageHub
from torch import Tensor
from torch.optim import Optimizer

from .clip_grad import clip_grad

__all__ = ['BranchOptimizer']


class BranchOptimizer(Optimizer):
    """The optimizers of a cohort, as one.

    A branch may have an optimizer of its own; all others share that of the
    cohort, which also has the parameters of teacher and loss. Groups and
    states are those of the optimizers themselves, so that schedulers, logs
    and checkpoints see one optimizer, whose groups are of several kinds.

    Gradients are clipped here, since a branch may have limits of its own.

    With a scaled loss, as of ``AmpOptimWrapper``, the parts of the cohort are
    looked at one by one: where a gradient of a branch is not finite, this
    branch alone makes no step, and its gradients are in no norm. The scaler
    sees that there was one, and lowers its factor as ever. The host waits for
    the device once, as it does for any optimizer that is not fused.

    Args:
        optimizers (dict[str, Optimizer]): The optimizers by branch; that of
            the cohort has the empty name.
        parts (dict[str, list[nn.Parameter]]): What is trained: the
            parameters by branch, and with the empty name those of teacher
            and loss.
        clip (dict, optional): Settings of :func:`clip_grad` for all parts
            together that have none of their own. Defaults to None.
        own_clips (dict[str, dict], optional): Settings by part; empty ones
            for a part that is not clipped. Defaults to None.

    Attributes:
        optimizers (dict[str, Optimizer]): As they are given.
        parts (dict[str, list[nn.Parameter]]): As they are given.
        clips (dict[str, tuple]): Under the name that the norm has in the
            log, ``grad_norm`` or ``<branch>.grad_norm``, names of parts that
            are clipped together, and the settings.
    """

    # By this GradScaler leaves it to the optimizer what to skip. It tells
    # its factor, and whether any gradient is not finite, by the attributes
    # grad_scale and found_inf.
    _step_supports_amp_scaling = True
    # Where the norms wait on the device, see GradientNorms.
    gradient_norms = None

    def __init__(self,
                 optimizers: Mapping[str, Optimizer],
                 parts: Mapping[str, List[nn.Parameter]],
                 clip: Optional[dict] = None,
                 own_clips: Optional[Mapping[str, dict]] = None) -> None:
        self.optimizers = dict(optimizers)
        self.parts = dict(parts)
        own_clips = dict(own_clips or {})
        self.clips = {
            f'{name}.grad_norm': ([name], settings)
            for name, settings in own_clips.items() if settings
        }
        together = [name for name in parts if name not in own_clips]
        if clip and together:
            self.clips['grad_norm'] = (together, clip)
        groups = [
            group for optimizer in self.optimizers.values()
            for group in optimizer.param_groups
        ]
        self._owners = {
            value: name
            for name, optimizer in self.optimizers.items()
            for group in optimizer.param_groups
            for value in group['params']
        }
        # The groups are the optimizers' own, and get no other settings.
        super().__init__(groups, {})
        self.defaults = next(iter(self.optimizers.values())).defaults
        self._share_state()

    def owner(self, parameter: nn.Parameter) -> str:
        """The name in :attr:`optimizers` of the one that updates a
        parameter."""
        return self._owners[parameter]

    @torch.no_grad()
    def step(self) -> None:
        """Clip the gradients, and have each optimizer make its step."""
        self._drop_overflow()
        self._clip()
        for optimizer in self.optimizers.values():
            if any(value.grad is not None for group in optimizer.param_groups
                   for value in group['params']):
                optimizer.step()

    def load_state_dict(self, state_dict: dict) -> None:
        """Load a state in PyTorch's format, of groups in the order of
        :attr:`param_groups`."""
        groups = state_dict['param_groups']
        if len(groups) != len(self.param_groups):
            raise ValueError('loaded state dict has a different number of '
                             'parameter groups')
        for name, optimizer in self.optimizers.items():
            places = [
                place for place, group in enumerate(self.param_groups)
                if self.owner(group['params'][0]) == name
            ]
            own = [groups[place] for place in places]
            numbers = {number for group in own for number in group['params']}
            # They may be other groups of its parameters than before.
            optimizer.param_groups = [
                self.param_groups[place] for place in places
            ]
            optimizer.load_state_dict(
                dict(
                    state={
                        number: value
                        for number, value in state_dict['state'].items()
                        if number in numbers
                    },
                    param_groups=own))
            for place, group in zip(places, optimizer.param_groups):
                self.param_groups[place] = group
        self._share_state()

    def _share_state(self) -> None:
        """Have all optimizers write into one state."""
        state = defaultdict(dict)
        for optimizer in self.optimizers.values():
            state.update(optimizer.state)
        for optimizer in (self, *self.optimizers.values()):
            optimizer.state = state

    def _drop_overflow(self) -> None:
        """Undo the scale of the loss, and drop the gradients of parts with
        one that is not finite: without, a parameter stays as it is."""
        found_inf = getattr(self, 'found_inf', None)
        if found_inf is None:
            return
        scale = self.grad_scale
        inverse = torch.ones_like(found_inf)
        if scale is not None:
            # In double precision, as GradScaler does.
            inverse = scale.double().reciprocal().float()
        flags = []
        for values in self.parts.values():
            flag = torch.zeros_like(found_inf)
            for gradients in _by_dtype(values):
                torch._amp_foreach_non_finite_check_and_unscale_(
                    gradients, flag, inverse)
            flags.append(flag)
        for values, flag in zip(self.parts.values(),
                                torch.stack(flags).tolist()):
            if flag:
                for value in values:
                    value.grad = None

    def _clip(self) -> None:
        norms = {}
        for key, (names, settings) in self.clips.items():
            values = [
                value for name in names for value in self.parts[name]
                if value.grad is not None
            ]
            if values:
                norms[key] = clip_grad(values, **settings)
        norms = {key: norm for key, norm in norms.items() if norm is not None}
        if self.gradient_norms is not None:
            self.gradient_norms.values.update(norms)
        elif norms:
            hub = MessageHub.get_current_instance()
            # All at once, since the host waits for them.
            numbers = torch.stack(list(norms.values())).tolist()
            for key, number in zip(norms, numbers):
                hub.update_scalar(f'train/{key}', number)


def _by_dtype(parameters: List[nn.Parameter]) -> List[List[Tensor]]:
    """The gradients of some parameters, those of a kind together."""
    kinds: Dict[tuple, List[Tensor]] = {}
    for value in parameters:
        if value.grad is not None:
            kind = value.grad.device, value.grad.dtype
            kinds.setdefault(kind, []).append(value.grad)
    return list(kinds.values())
