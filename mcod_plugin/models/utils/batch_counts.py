"""Counting the batches of many batch norms at once."""
from contextlib import contextmanager
from typing import Dict, Iterable, Iterator, List

import torch
import torch.nn as nn
from timm.layers import BatchNormAct2d
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ['counted_together']

NAME = 'num_batches_tracked'
# Those that do nothing with the number but add to it.
FORWARDS = (_BatchNorm.forward, BatchNormAct2d.forward)


class _Calls:
    """Stands where a batch norm has its number of batches."""

    def __init__(self) -> None:
        self.number = 0

    def add_(self, number: int) -> None:
        self.number += number


@contextmanager
def counted_together(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Have all batch norms among some modules add to their numbers of batches
    in one operation, at the end, instead of one each.

    Their numbers are as they would be, also of one that is called several
    times or not at all. One that averages over all batches (``momentum=None``)
    needs its number at once, and is left alone.
    """
    norms = [
        norm for module in modules for norm in module.modules()
        if type(norm).forward in FORWARDS and norm.momentum is not None
        and isinstance(norm._buffers.get(NAME), Tensor)
    ]
    numbers = [norm._buffers[NAME] for norm in norms]
    calls = [_Calls() for _ in norms]
    for norm, call in zip(norms, calls):
        norm._buffers[NAME] = call
    try:
        yield
    finally:
        for norm, number in zip(norms, numbers):
            norm._buffers[NAME] = number
        together: Dict[int, List[Tensor]] = {}
        for number, call in zip(numbers, calls):
            together.setdefault(call.number, []).append(number)
        together.pop(0, None)
        for number, values in together.items():
            torch._foreach_add_(values, number)
