import math
from typing import Any, Callable, Iterator, Optional

from mmengine.dataset import InfiniteSampler
from torch.utils.data import DataLoader

__all__ = ['RepeatedBatches', 'batches_per_pass']


class RepeatedBatches:
    """The batches of a data loader, one pass over the data after the other,
    as training by iterations takes them.

    Each comes from freshly seeded generators, so that a run which is resumed
    at any iteration sees what an unbroken one does. The passes before that
    iteration are not read again. Within a pass the batches before it are,
    since the random state of a worker process depends on what it has loaded;
    so are those of an ``InfiniteSampler``, whose order has no passes.

    Args:
        loader (DataLoader): The data loader.
        seed (Callable[[int], None]): Seeds all generators for an iteration,
            from 0.
        done (int): How many iterations are over. MMEngine asks for as many
            batches before it goes on, and gets None. Defaults to 0.
    """

    def __init__(self,
                 loader: DataLoader,
                 seed: Callable[[int], None],
                 done: int = 0) -> None:
        self._loader = loader
        self._seed = seed
        self._skipped = done
        self._next = done
        self._batches: Optional[Iterator] = None

    def __iter__(self) -> 'RepeatedBatches':
        return self

    def __next__(self) -> Any:
        if self._skipped > 0:
            self._skipped -= 1
            return None
        if self._batches is None:
            self._go_on()
        self._seed(self._next)
        try:
            batch = next(self._batches)
        except StopIteration:
            self._begin(self._next)
            batch = next(self._batches)
        self._next += 1
        return batch

    def _go_on(self) -> None:
        """Begin the pass that the next iteration is in."""
        sampler = _sampler(self._loader)
        first = 0
        if isinstance(sampler, InfiniteSampler):
            # Whatever has been taken from it, by workers that were started
            # before the run was resumed.
            sampler.indices = sampler._indices_of_rank()
        else:
            first = self._next - self._next % len(self._loader)
        self._seed(first)
        self._begin(first)
        for _ in range(first, self._next):
            next(self._batches)

    def _begin(self, iteration: int) -> None:
        sampler = _sampler(self._loader)
        if hasattr(sampler, 'set_epoch'):
            sampler.set_epoch(iteration // len(self._loader))
        self._batches = iter(self._loader)
        # It has drawn a number.
        self._seed(iteration)


def batches_per_pass(loader: DataLoader) -> int:
    """How many batches, in each process, are one pass of all processes over
    the data."""
    sampler = _sampler(loader)
    if isinstance(sampler, InfiniteSampler) and loader.batch_size:
        # Its length is that of the data, not of the share of a process.
        return math.ceil(sampler.size /
                         (loader.batch_size * sampler.world_size))
    return len(loader)


def _sampler(loader: DataLoader) -> Any:
    """What draws the order of the data."""
    if hasattr(loader.sampler, 'set_epoch'):
        return loader.sampler
    return getattr(loader.batch_sampler, 'sampler', loader.sampler)
