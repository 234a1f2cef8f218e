from contextlib import contextmanager
from typing import Any, Iterator, Sequence

import torch
from torch import Tensor

__all__ = ['BranchStreams']


class BranchStreams:
    """Has the branches of a cohort work beside each other on a GPU, each on a
    stream of its own; their backward passes follow them there.

    It pays while a graph is recorded: kernels that are launched one by one
    leave no room beside each other.

    Args:
        names (Sequence[str]): Names of the branches. The last one stays on
            the current stream.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._streams = {name: torch.cuda.Stream() for name in names[:-1]}

    @contextmanager
    def work(self, name: str, images: Tensor) -> Iterator[None]:
        """Work on the stream of a branch, which reads the images, after all
        that was begun before."""
        stream = self._streams.get(name)
        if stream is None:
            yield
            return
        stream.wait_stream(torch.cuda.current_stream())
        # Nobody else gets their memory while it is read there.
        images.record_stream(stream)
        with torch.cuda.stream(stream):
            yield

    def join(self, *found: Any) -> None:
        """Go on after the work of all branches, which has given tensors or
        tuples of them, by branch."""
        current = torch.cuda.current_stream()
        for name, stream in self._streams.items():
            current.wait_stream(stream)
            for values in found:
                _record(values.get(name), current)


def _record(values: Any, stream: torch.cuda.Stream) -> None:
    if isinstance(values, Tensor):
        values.record_stream(stream)
    elif isinstance(values, (tuple, list)):
        for value in values:
            _record(value, stream)
