"""What a recorded step has built in."""
from typing import Any, Dict, Optional, Tuple

import torch.nn as nn
from torch import Tensor
from torch.optim import Optimizer

__all__ = ['difference', 'fingerprint', 'group_settings', 'plain_settings']

# What groups of an optimizer have besides settings, and the learning rate,
# which a recorded step reads anew.
NO_SETTINGS = ('params', 'param_names', 'lr', 'initial_lr', 'capturable')


def fingerprint(model: nn.Module, optimizer: Optimizer) -> Dict[str, Any]:
    """What must stay as it is for the recorded steps of a model and its
    optimizer, by its name in words: places in memory, and what else is decided
    on the host."""
    state = {
        (id(parameter), key): value.data_ptr()
        for parameter, entry in optimizer.state.items()
        for key, value in entry.items() if isinstance(value, Tensor)
    }
    return {
        'the modules': [id(module) for module in model.modules()],
        'where the parameters lie':
        [value.data_ptr() for value in model.parameters()],
        'where the buffers lie':
        [value.data_ptr() for value in model.buffers()],
        'which parameters are trained':
        [value.requires_grad for value in model.parameters()],
        'the settings of a module': [
            plain_settings(module) for module in model.children()
            for module in module.modules()
        ],
        "where the optimizer's state lies":
        state,
    }


def difference(before: Dict[str, Any], now: Dict[str, Any]) -> Optional[str]:
    """What has changed between two fingerprints of a model; None if all that
    was there is as it was."""
    for what, value in before.items():
        if isinstance(value, dict):
            # A parameter that had no gradient so far gets a state later.
            if not value.items() <= now[what].items():
                return what
        elif value != now[what]:
            return what
    return None


def plain_settings(module: nn.Module) -> Tuple[Tuple[str, Any], ...]:
    """The numbers, texts and switches that a module has as attributes, in
    pairs of name and value."""
    return tuple(
        (name, value) for name, value in vars(module).items()
        if value is None or isinstance(value, (bool, int, float, str)))


def group_settings(optimizer: Optimizer) -> tuple:
    """Of each of an optimizer's groups the pairs of setting and value, apart
    from learning rates."""
    return tuple(
        tuple((key, repr(value)) for key, value in group.items()
              if key not in NO_SETTINGS) for group in optimizer.param_groups)
