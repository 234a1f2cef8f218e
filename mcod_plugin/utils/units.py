"""Quantities to read, and what a run counts in."""
from typing import Tuple

from mmengine.runner import IterBasedTrainLoop, Runner

__all__ = ['duration', 'file_size', 'progress']


def duration(seconds: float) -> str:
    """A length of time to read, as ``1 h 05 min``; below a minute in
    seconds."""
    if seconds < 60:
        return f'{seconds:.0f} s'
    minutes = round(seconds / 60)
    if minutes < 60:
        return f'{minutes} min'
    return f'{minutes // 60} h {minutes % 60:02} min'


def file_size(number: int) -> str:
    """A size in bytes to read, as ``1.50 MiB``."""
    if number < 1024:
        return f'{number} B'
    if number < 1 << 20:
        return f'{number / 1024:.1f} KiB'
    return f'{number / (1 << 20):.2f} MiB'


def progress(runner: Runner) -> Tuple[str, int, int]:
    """What training counts in, ``'epoch'`` or ``'iteration'``, how many of
    those are over, and of how many."""
    if isinstance(runner.train_loop, IterBasedTrainLoop):
        return 'iteration', runner.iter, runner.max_iters
    return 'epoch', runner.epoch, runner.max_epochs
