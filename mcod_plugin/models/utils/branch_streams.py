from contextlib import contextmanager
from typing import Any, Iterator, Sequence

import torch
from mmengine.utils import apply_to
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
                apply_to(
                    values.get(name), torch.is_tensor,
                    lambda value: value.record_stream(current))
