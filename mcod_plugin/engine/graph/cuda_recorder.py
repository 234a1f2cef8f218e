from contextlib import contextmanager
from typing import Any, Callable, Iterator, Sequence, Tuple

import torch

from mcod_plugin.models.utils.branch_streams import BranchStreams

__all__ = ['CudaRecorder']


class CudaRecorder:
    """Records what is done on a GPU as a CUDA graph.

    Recording is done on a stream of its own and computes nothing; a replay is
    done on the current stream. The graphs share their memory, so what one of
    them gives must be copied before the next one is replayed.

    Args:
        names (Sequence[str]): Names of the branches, each of which works on
            a stream of its own.

    Attributes:
        rate_type (torch.dtype): What fused optimizers take learning rates of
            the device in.
        streams (BranchStreams): The streams of the branches.
    """

    rate_type = torch.float32

    def __init__(self, names: Sequence[str]) -> None:
        self._stream = torch.cuda.Stream()
        self.streams = BranchStreams(names)
        self.forget()

    def forget(self) -> None:
        """Use other memory for the graphs that are recorded from now on. All
        before must be gone."""
        self._pool = torch.cuda.graph_pool_handle()

    @contextmanager
    def warming_up(self) -> Iterator[None]:
        """Work on the stream that is recorded later on: gradients remember
        the stream, and libraries have memory for each."""
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            yield
        current.wait_stream(self._stream)

    def record(self, function: Callable[[], Any]) -> Tuple[Callable, Any]:
        """Record a function: what replays it, and what it gives, which each
        replay writes anew.

        Random numbers of the GPU go on from replay to replay as they would
        from call to call.
        """
        graph = torch.cuda.CUDAGraph()
        # Threads of data loaders may go on meanwhile.
        with torch.cuda.graph(
                graph,
                pool=self._pool,
                stream=self._stream,
                capture_error_mode='thread_local'):
            found = function()
        return graph.replay, found
