"""The state of an optimizer, put where the names of its parameters say.

PyTorch restores it by position, which is another one once the branches of a
cohort are written in another order.
"""
from itertools import chain, repeat, zip_longest
from typing import Dict, List, Optional, Sequence, Tuple, Union

import torch
import torch.nn as nn
from mmengine.optim import OptimWrapper
from torch import Tensor
from torch.optim import Optimizer

from mcod_plugin.errors import ConfigError
from mcod_plugin.utils.checkpoint import branch_of, state_dict_mismatches
from .branch_optimizer import BranchOptimizer
from .fused import WAYS

__all__ = [
    'all_kinds', 'arrange_parameters', 'changed_options',
    'match_memory_formats', 'match_parameters', 'name_parameters',
    'optimizer_kinds'
]

# For each group of a state its parameters: name, value and present group.
Match = List[List[Tuple[str, nn.Parameter, dict]]]
# The class of an optimizer, or those of several by branch.
Kinds = Union[str, Dict[str, str]]

# Where PyTorch itself keeps the names of a group's parameters.
NAMES = 'param_names'
# Options that a state may lack, since PyTorch has added them over time.
ADDED = {*WAYS, 'maximize', 'decoupled_weight_decay'}
# Options that a config may give to each parameter.
OPTIONS = ('lr', 'weight_decay')


def name_parameters(optimizer: Optimizer, model: nn.Module) -> None:
    """Write the names of an optimizer's parameters, by the model out of any
    wrapper, into its groups, whence its ``state_dict()`` has them. An
    optimizer with parameters that are not the model's is left as it is.

    They are PyTorch's ``param_names``, as of an optimizer that was made of
    ``named_parameters()``.
    """
    names = {value: name for name, value in model.named_parameters()}
    groups = optimizer.param_groups
    if all(value in names for group in groups for value in group['params']):
        for group in groups:
            group[NAMES] = [names[value] for value in group['params']]


def optimizer_kinds(optimizer: Optimizer) -> Kinds:
    """What a checkpoint tells of the class of an optimizer: its name; if
    branches have their own, those by branch, that of the cohort under the
    empty name."""
    if not isinstance(optimizer, BranchOptimizer):
        return type(optimizer).__name__
    kinds = {
        name: type(own).__name__
        for name, own in optimizer.optimizers.items()
    }
    return kinds[''] if set(kinds) == {''} else kinds


def all_kinds(parts: Sequence[Kinds]) -> Kinds:
    """What one process would tell of its optimizer, from what
    :func:`optimizer_kinds` gives in each of several that share the
    branches."""
    kinds: Dict[str, str] = {}
    for part in parts:
        kinds.update({'': part} if isinstance(part, str) else part)
    return kinds[''] if set(kinds) == {''} else kinds


def match_parameters(optimizer: Optimizer,
                     saved: dict,
                     kind: Optional[Kinds] = None) -> Match:
    """Find the parameters of a saved state; nothing is changed. Raise if the
    state is of another class of optimizer or of other parameters, or has other
    shapes than they.

    The state is in PyTorch's format; without names it has to fit by position.
    ``kind`` is what :func:`optimizer_kinds` gave for the optimizer that it was
    saved by, if it is known. Returned are for each group of the state its
    parameters, each by name, value and the group in which the optimizer has it
    now.
    """
    own, given = optimizer.param_groups, saved['param_groups']
    found = [[
        (name, value, group)
        for name, value in zip(group.get(NAMES, repeat('')), group['params'])
    ] for group in own]
    by_name = _are_named(own) and _are_named(given)
    if by_name:
        parameters = {entry[0]: entry for entry in chain(*found)}
        names = [group[NAMES] for group in given]
        faults = state_dict_mismatches(
            dict.fromkeys(parameters), dict.fromkeys(chain(*names)))
        if faults:
            raise ConfigError('the state of its optimizer is of other '
                              'parameters: it ' + '; it '.join(faults))
        found = [[parameters[name] for name in group] for group in names]
    else:
        _check_sizes(own, given)
    _check_kinds(optimizer, given, found, kind)
    _check_shapes(optimizer, saved, found, by_name)
    return found


def arrange_parameters(optim_wrapper: OptimWrapper, saved: dict,
                       found: Match) -> None:
    """Give an optimizer the groups of a saved state, as
    :func:`match_parameters` has found them, so that its ``load_state_dict()``
    puts each value where it belongs.

    What goes by group, as learning rates and the states of schedulers, is then
    of the same parameters as when it was saved. The state is changed, too: how
    an update is computed, such as ``fused``, is a matter of this machine.
    """
    optimizer = optim_wrapper.optimizer
    optimizer.param_groups[:] = [
        dict(params=[value for _, value, _ in entries]) for entries in found
    ]
    if 'base_param_settings' not in saved:
        # MMEngine has it for several groups only.
        optim_wrapper.base_param_settings = None
    for group, entries in zip(saved['param_groups'], found):
        _, own = _owner(optimizer, entries[0][1])
        group.update({
            way: own.defaults[way]
            for way in WAYS if way in own.defaults
        })


def changed_options(saved: dict, found: Match) -> List[str]:
    """What a saved state says of its parameters, see :func:`match_parameters`,
    unlike their optimizer: phrases such as ``'lr 0.05 instead of 0.1 (10
    parameters such as branches.vgg.head.fc.bias)'``. A learning rate is that
    before any schedule."""
    changes: Dict[tuple, List[str]] = {}
    for group, entries in zip(saved['param_groups'], found):
        for name, _, own in entries:
            for key in OPTIONS:
                if key in group and key in own:
                    then, now = (
                        float(part.get(f'initial_{key}', part[key]))
                        for part in (group, own))
                    if then != now:
                        changes.setdefault((key, then, now), []).append(name)
    return [
        f'{key} {then:g} instead of {now:g} ({len(names)} parameters such as '
        f'{names[0]})' for (key, then, now), names in changes.items()
    ]


def match_memory_formats(optimizer: Optimizer) -> None:
    """Put an optimizer's state into the memory formats of its parameters.

    A checkpoint brings the formats in which it was saved. Fused optimizers
    take the values of a parameter and of its state as they lie in memory, and
    would confuse them without an error.
    """
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if (isinstance(value, Tensor) and value.shape == parameter.shape
                    and value.stride() != parameter.stride()):
                state[key] = torch.empty_like(
                    parameter, dtype=value.dtype).copy_(value)


def _are_named(groups: List[dict]) -> bool:
    """Whether each parameter of some groups has a name of its own."""
    names = [group.get(NAMES) or [] for group in groups]
    return len(set(chain(*names))) == sum(map(len, names)) and all(
        len(group['params']) == len(part)
        for group, part in zip(groups, names))


def _owner(optimizer: Optimizer,
           parameter: nn.Parameter) -> Tuple[str, Optimizer]:
    """The optimizer that updates a parameter, and its setting."""
    name = ''
    if isinstance(optimizer, BranchOptimizer):
        name = optimizer.owner(parameter)
        optimizer = optimizer.optimizers[name]
    setting = f'model.branches.{name}' if name else 'optim_wrapper'
    return f'{setting}.optimizer', optimizer


def _check_kinds(optimizer: Optimizer, groups: List[dict], found: Match,
                 kind: Optional[Kinds]) -> None:
    """Raise if a state is of another class of optimizer, or has a group of
    parameters that now have several optimizers."""
    checked = set()
    for group, entries in zip(groups, found):
        owners = set()
        for name, value, _ in entries:
            setting, own = _owner(optimizer, value)
            saved_by = kind
            if isinstance(kind, dict):
                saved_by = kind.get(branch_of(name), kind.get(''))
            owners.add(setting)
            if (id(group), setting, saved_by) not in checked:
                checked.add((id(group), setting, saved_by))
                _check_kind(own, f'{setting}.type', group, saved_by)
        if len(owners) > 1:
            raise ConfigError(
                'it was saved by one optimizer for what now has several: '
                f'{", ".join(sorted(owners))}; leave out those of the '
                'branches, or have another run start from it (load_from)')


def _check_kind(optimizer: Optimizer, setting: str, group: dict,
                kind: Optional[str]) -> None:
    own = type(optimizer).__name__
    setting = f'{setting}, {own}'
    if kind is not None:
        if kind != own:
            raise ConfigError(f'it was saved by the optimizer {kind}, not by '
                              f'{setting}')
        return
    lacks = optimizer.defaults.keys() - group.keys() - ADDED
    key = 'decoupled_weight_decay'
    if key in group and group[key] != optimizer.defaults.get(key, group[key]):
        # All that tells AdamW from Adam.
        lacks.add(f'{key} {optimizer.defaults[key]}')
    if lacks:
        raise ConfigError('it was saved by another optimizer than '
                          f'{setting}: it lacks {", ".join(sorted(lacks))}')


def _check_shapes(optimizer: Optimizer, saved: dict, found: Match,
                  by_name: bool) -> None:
    """Raise where values are not as many as those of their parameter."""
    for group, entries in zip(saved['param_groups'], found):
        # A kernel that is fused takes their number for granted. Others may
        # keep what they like for a parameter, which only its name can tell
        # then.
        elementwise = 'fused' in _owner(optimizer, entries[0][1])[1].defaults
        if by_name and not elementwise:
            continue
        for number, (name, parameter, _) in zip(group['params'], entries):
            for key, value in saved['state'].get(number, {}).items():
                if (isinstance(value, Tensor) and key != 'step'
                        and (elementwise or value.ndim)
                        and value.shape != parameter.shape):
                    raise ConfigError(
                        f'the state of its optimizer does not fit: {key} of '
                        f'{name or f"parameter {number}"} is of shape '
                        f'{tuple(value.shape)} instead of '
                        f'{tuple(parameter.shape)}')


def _check_sizes(own: List[dict], given: List[dict]) -> None:
    """Raise unless groups have as many parameters as others."""
    sizes = [[len(group['params']) for group in part] for part in (own, given)]
    for number, (wanted, size) in enumerate(zip_longest(*sizes, fillvalue=0)):
        if wanted != size:
            raise ConfigError(
                'the state of its optimizer names no parameters, and by '
                f'position it does not fit: group {number} has {size} '
                f'parameters instead of {wanted}')
