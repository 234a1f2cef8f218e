"""Computing activations again instead of keeping them."""
from contextlib import contextmanager, nullcontext
from typing import Any, Callable, Iterator, List, Tuple

import torch
import torch.nn as nn
from torch import Tensor
from torch.utils.checkpoint import checkpoint

__all__ = ['recomputed']


def recomputed(call: Callable, module: nn.Module, *args: Any) -> Any:
    """Call a function of a module, of which the backward pass computes the
    activations again.

    It takes about a third more time, and the memory of the inputs and outputs
    alone until then. Gradients, buffers such as the statistics of batch norm,
    and the random numbers of dropout are those without it, bit by bit.
    """
    if not torch.is_grad_enabled():
        return call(*args)
    # What the call changes, such as the statistics of batch norm.
    buffers = [(owner, name, value.clone())
               for owner in module.modules()
               for name, value in owner.named_buffers(recurse=False)]
    return checkpoint(
        call,
        *args,
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), _as_before(buffers)))


@contextmanager
def _as_before(buffers: List[Tuple[nn.Module, str, Tensor]]) -> Iterator[None]:
    """Lend modules copies of the buffers that they had before the call."""
    own = [(owner, name, owner._buffers[name]) for owner, name, _ in buffers]
    for owner, name, value in buffers:
        owner._buffers[name] = value.clone()
    try:
        yield
    finally:
        for owner, name, value in own:
            owner._buffers[name] = value
