"""A training step of a cohort that leaves no trace."""
import copy
from collections import deque
from contextlib import contextmanager
from functools import partial
from itertools import count
from typing import Any, Dict, Iterator, List, Mapping, Tuple

import torch
import torch.nn as nn
from mmengine.dist import get_world_size
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

from mcod_plugin.errors import ConfigError, one_line
from mcod_plugin.utils.checkpoint import shape_of

__all__ = [
    'batch_size', 'check_ensemble', 'check_targets', 'starved_norms', 'told',
    'undisturbed'
]


# What a module may keep its memory in.
CONTAINERS = (list, tuple, dict, set, deque)


@contextmanager
def undisturbed(cohort: nn.Module) -> Iterator[None]:
    """Have a cohort in eval mode for a while, after which it is as before.

    Attributes, parameters and buffers of its teacher and its loss are put
    back, and so is the random state. Neither is copied as a whole: a copy of
    averages would follow the branches as well.
    """
    found: Dict[int, Any] = {}
    for part in (cohort.teacher, cohort.distill):
        for module in part.modules() if part is not None else ():
            _collect(vars(module), found)
    tensors = [(value, value.detach().clone()) for value in found.values()
               if isinstance(value, Tensor)]
    containers = [(value, copy.copy(value)) for value in found.values()
                  if not isinstance(value, Tensor)]
    modes = [(module, module.training) for module in cohort.modules()]
    ratio_due = cohort.ratio_due
    devices = {x.device for x in cohort.parameters()}
    try:
        cohort.ratio_due = False
        cohort.eval()
        with torch.random.fork_rng(
            [x.index for x in devices if x.type == 'cuda']):
            yield
    finally:
        cohort.ratio_due = ratio_due
        for module, mode in modes:
            module.training = mode
        for value, kept in containers:
            value.clear()
            (value.extend if isinstance(value, (list, deque)) else
             value.update)(kept)
        with torch.no_grad():
            for value, kept in tensors:
                # One that repeats its values cannot be written.
                if not torch.equal(value, kept):
                    value.copy_(kept)


def _collect(value: Any, found: Dict[int, Any]) -> None:
    """Note by its id what can be changed: a tensor, or a container and what
    is within it."""
    if isinstance(value, Tensor):
        # One of no shape yet is as it was once it has one.
        if not is_lazy(value):
            found[id(value)] = value
        return
    if id(value) in found or not isinstance(value, CONTAINERS):
        return
    if not isinstance(value, tuple):
        found[id(value)] = value
    for part in list(value.values() if isinstance(value, dict) else value):
        _collect(part, found)


def batch_size(*others: int) -> int:
    """A small number of images that cannot be mistaken for others, at least
    2."""
    return next(number for number in count(2) if number not in others)


def starved_norms(cohort: nn.Module) -> List[str]:
    """The names, as in ``branches.resnet.backbone.bn1``, of the batch norms
    that one image gives a single value of each channel, of which there is no
    variance. Those that are not trained, or share the values of several
    processes, have no need."""
    found: Dict[str, None] = {}
    hooks = []

    def note(name: str, module: nn.Module, inputs: Tuple[Tensor]) -> None:
        if inputs[0][0, 0].numel() == 1:
            found[name] = None

    image = torch.zeros((1, cohort.in_channels, *cohort.input_size))
    with undisturbed(cohort), torch.no_grad():
        # Some backbones keep their norms as they are.
        cohort.train()
        for name, module in cohort.named_modules():
            synced = get_world_size() > 1 and isinstance(
                module, nn.SyncBatchNorm)
            if (isinstance(module, _BatchNorm) and module.training
                    and not synced):
                hooks.append(
                    module.register_forward_pre_hook(partial(note, name)))
        cohort.eval()
        try:
            cohort.branch_logits(image.to(next(cohort.parameters())))
        finally:
            for hook in hooks:
                hook.remove()
    return list(found)


@contextmanager
def told(setting: str) -> Iterator[None]:
    """Turn what the part of a setting raises into one line."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            f'{setting} fails on random images: {one_line(error)} '
            f'({type(error).__name__}; set MCOD_DEBUG=1 to see where it comes '
            'from)') from error


def check_ensemble(teacher: nn.Module, fused: Any,
                   shape: Tuple[int, ...]) -> None:
    """Raise unless a teacher's prediction has the shape of logits."""
    if shape_of(fused) != tuple(shape):
        raise ConfigError(f'{_name(teacher)}: ensemble must give logits (N, '
                          f'C), {tuple(shape)}; got {shape_of(fused)}')


def check_targets(teacher: nn.Module, targets: Any,
                  logits: Mapping[str, Tensor]) -> None:
    """Raise unless a teacher's targets are such for branches of the cohort."""
    name = _name(teacher)
    if not isinstance(targets, Mapping):
        raise ConfigError(f'{name} must give a dict of targets by branch; got '
                          f'{type(targets).__name__}')
    unknown = [str(key) for key in targets if key not in logits]
    if unknown:
        raise ConfigError(
            f'{name} must give targets of the branches {", ".join(logits)}; '
            f'got one of {", ".join(unknown)}')
    for key, target in targets.items():
        shape, got = tuple(logits[key].shape), shape_of(target)
        if teacher.per_peer:
            good = len(got) == 3 and got[1:] == shape
            wanted = f'(P, N, C), (P, {shape[0]}, {shape[1]})'
        else:
            good, wanted = got == shape, f'(N, C), {shape}'
        if not good:
            hint = '' if teacher.per_peer or len(got) != 3 else (
                '; those of several peers need per_peer = True')
            raise ConfigError(f'{name} must give a target {wanted} to {key}; '
                              f'got {got}{hint}')


def _name(teacher: nn.Module) -> str:
    return f'model.teacher.type {type(teacher).__name__}'
