"""The order in which the values of feature maps lie in memory."""
from typing import Tuple

import torch
import torch.nn as nn
from torch import Tensor

from mcod_plugin.errors import ConfigError
from mcod_plugin.utils.explain import one_line

__all__ = ['MEMORY_FORMATS', 'choose_memory_format', 'match_state']

MEMORY_FORMATS = ('auto', 'channels_last', 'contiguous')


def choose_memory_format(setting: str, wanted: str, branch: nn.Module,
                         shape: Tuple[int, ...]) -> torch.memory_format:
    """The memory format for a branch; the branch is put into it.

    Args:
        setting (str): The branch's setting, for error messages.
        wanted (str): ``'channels_last'``, ``'contiguous'`` (channels first),
            or ``'auto'``: channels_last for a network that convolves.
        branch (nn.Module): The classifier.
        shape (tuple[int]): Shape ``(N, C, H, W)`` of a dummy batch to try it
            on.

    Returns:
        torch.memory_format: The format of the branch and of its input.

    Raises:
        ConfigError: If channels_last is wanted for a branch that cannot.
    """
    if wanted == 'contiguous':
        return torch.contiguous_format
    # Transformers convolve once, to cut the image into patches.
    convolutions = sum(
        isinstance(part, nn.Conv2d) for part in branch.modules())
    reason = ''
    if convolutions < (2 if wanted == 'auto' else 1):
        reason = 'it has no 2-d convolution'
    else:
        try:
            branch.to(memory_format=torch.channels_last)
            _run(branch, shape)
        except Exception as error:
            # Code that takes the order for granted, by view() mostly.
            branch.to(memory_format=torch.contiguous_format)
            reason = one_line(error)
    if not reason:
        return torch.channels_last
    if wanted == 'auto':
        return torch.contiguous_format
    raise ConfigError(f'model.memory_format is channels_last, but {setting} '
                      f'cannot: {reason}; use auto or contiguous')


def match_state(optimizer: torch.optim.Optimizer) -> None:
    """Put an optimizer's state into the memory formats of its parameters.

    A checkpoint brings the formats in which it was saved. Fused optimizers
    take the values of a parameter and of its state as they lie in memory, and
    would confuse them without an error.

    Args:
        optimizer (torch.optim.Optimizer): The optimizer, which is changed.
    """
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if (isinstance(value, Tensor) and value.shape == parameter.shape
                    and value.stride() != parameter.stride()):
                state[key] = torch.empty_like(
                    parameter, dtype=value.dtype).copy_(value)


@torch.no_grad()
def _run(branch: nn.Module, shape: Tuple[int, ...]) -> None:
    training = branch.training
    branch.eval()
    try:
        dtype = next(branch.parameters()).dtype
        branch(
            torch.zeros(shape,
                        dtype=dtype).to(memory_format=torch.channels_last))
    finally:
        branch.train(training)
