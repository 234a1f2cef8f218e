"""Computing activations again instead of keeping them."""
from contextlib import contextmanager, nullcontext
from typing import Any, Callable, Iterator, List, Tuple

import torch
import torch.nn as nn
from torch import Tensor
from torch.utils.checkpoint import checkpoint

__all__ = ['as_before', 'buffers_of', 'recomputed']

Buffers = List[Tuple[nn.Module, str, Tensor]]


def recomputed(call: Callable, module: nn.Module, images: Tensor) -> Any:
    """Call a function of a module, of which the backward pass computes the
    activations again.

    It takes about a third more time, and the memory of the inputs and outputs
    alone until then. Gradients, buffers such as the statistics of batch norm,
    and the random numbers of dropout are those without it, bit by bit.
    """
    if not torch.is_grad_enabled():
        return call(images)
    # What the call changes, such as the statistics of batch norm.
    buffers = [(owner, name, value.clone())
               for owner, name, value in buffers_of(module)]
    return checkpoint(
        call,
        images,
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), as_before(buffers)))


def buffers_of(module: nn.Module) -> Buffers:
    """The buffers of a module, each with its owner and its name there."""
    return [(owner, name, value) for owner in module.modules()
            for name, value in owner.named_buffers(recurse=False)]


@contextmanager
def as_before(buffers: Buffers) -> Iterator[None]:
    """Lend modules copies of the buffers that they had before the call."""
    own = [(owner, name, owner._buffers[name]) for owner, name, _ in buffers]
    for owner, name, value in buffers:
        owner._buffers[name] = value.clone()
    try:
        yield
    finally:
        for owner, name, value in own:
            owner._buffers[name] = value
