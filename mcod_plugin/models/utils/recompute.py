"""Computing activations again instead of keeping them."""
from contextlib import contextmanager, nullcontext
from typing import Any, Callable, Iterator

import torch
import torch.nn as nn
from torch.utils.checkpoint import checkpoint

__all__ = ['recomputed']


def recomputed(call: Callable, module: nn.Module, *args: Any) -> Any:
    """Call a function of a module, of which the backward pass computes the
    activations again.

    It takes about a third more time, and the memory of the inputs and outputs
    alone until then. Gradients, buffers such as the statistics of batch norm,
    and the random numbers of dropout are those without it, bit by bit.

    Args:
        call (Callable): The function, such as the module itself.
        module (nn.Module): The module, whose buffers may change with a call.
        *args: The arguments.

    Returns:
        Any: What the call gives.
    """
    if not torch.is_grad_enabled():
        return call(*args)
    return checkpoint(
        call,
        *args,
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), _kept_buffers(module)))


@contextmanager
def _kept_buffers(module: nn.Module) -> Iterator[None]:
    """Have buffers keep their values: the first call has changed them."""
    buffers = [(value, value.clone()) for value in module.buffers()]
    try:
        yield
    finally:
        for value, kept in buffers:
            # Not as a change to what the backward pass has saved, which is
            # not the values of running statistics in training.
            value.data.copy_(kept)
