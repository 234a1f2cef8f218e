"""The order in which the values of feature maps lie in memory."""
from typing import Any, Dict, Optional, Tuple

import torch
import torch.nn as nn
from mmengine.device import get_device

from mcod_plugin.errors import ConfigError, one_line

__all__ = ['MEMORY_FORMATS', 'MemoryFormats', 'choose_memory_format']

MEMORY_FORMATS = ('auto', 'channels_last', 'contiguous')
# On a CPU, oneDNN's backward of a 1x1 convolution in float32, channels_last
# and with a stride writes out of bounds if it has fewer input channels than
# this, see uxlfoundation/oneDNN#6035: the process crashes, or goes on with
# wrong gradients. With AVX2 that was seen below 8 channels; the report says 16
# with AVX-512.
SAFE_CHANNELS = 16


class MemoryFormats(dict):
    """Memory formats by name, which can be pickled; PyTorch's own cannot."""

    def __reduce__(self) -> Tuple[Any, ...]:
        return _read_formats, ({
            name: str(layout).rpartition('.')[2]
            for name, layout in self.items()
        }, )


def _read_formats(texts: Dict[str, str]) -> MemoryFormats:
    return MemoryFormats(
        (name, getattr(torch, text)) for name, text in texts.items())


def choose_memory_format(setting: str, wanted: str, branch: nn.Module,
                         shape: Tuple[int, ...]) -> torch.memory_format:
    """The memory format for a branch, which is put into it, and its images.

    ``wanted`` is ``'channels_last'``, ``'contiguous'`` (channels first), or
    ``'auto'``: channels_last for a network that convolves, unless its
    gradients could be wrong in it on a CPU. That does not ask what the machine
    has, so that a run is the same on each. It is tried on a dummy batch of the
    shape ``(N, C, H, W)``. Raise if channels_last is wanted for a branch that
    cannot.
    """
    if wanted == 'contiguous':
        return torch.contiguous_format
    # Transformers convolve once, to cut the image into patches.
    convolutions = sum(
        isinstance(part, nn.Conv2d) for part in branch.modules())
    reason = ''
    narrow = _narrow_strided_convolution(branch)
    if convolutions < (2 if wanted == 'auto' else 1):
        reason = 'it has no 2-d convolution'
    elif narrow and (wanted == 'auto' or get_device() == 'cpu'):
        reason = (f'{narrow} is a 1x1 convolution with a stride and fewer '
                  f'than {SAFE_CHANNELS} input channels, whose gradients on a '
                  'CPU are wrong in it, or crash the process')
    else:
        try:
            branch.to(memory_format=torch.channels_last)
            # It is built on a CPU, wherever it is going to be trained.
            _try_step(branch, shape, backward=not narrow)
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


def _narrow_strided_convolution(branch: nn.Module) -> Optional[str]:
    """The name of a layer that :data:`SAFE_CHANNELS` is about, if any."""
    for name, part in branch.named_modules():
        if (isinstance(part, nn.Conv2d) and part.kernel_size == (1, 1)
                and max(part.stride) > 1
                and part.in_channels // part.groups < SAFE_CHANNELS):
            return name
    return None


@torch.enable_grad()
def _try_step(branch: nn.Module, shape: Tuple[int, ...],
              backward: bool) -> None:
    """Run a branch forward, and backward if asked for, and leave it as it
    was."""
    training = branch.training
    # Statistics of batch norm stay as they are.
    branch.eval()
    try:
        dtype = next(branch.parameters()).dtype
        images = torch.zeros(shape, dtype=dtype)
        logits = branch(images.to(memory_format=torch.channels_last))
        learning = [
            parameter for parameter in branch.parameters()
            if parameter.requires_grad
        ]
        if backward and learning:
            torch.autograd.grad(logits.sum(), learning, allow_unused=True)
    finally:
        branch.train(training)
