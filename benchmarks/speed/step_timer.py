import sys
import time
from multiprocessing.connection import Connection
from typing import Any, Generator

import torch

from .peak_memory import PeakMemory

# Steps before anything is measured: the first ones allocate memory, choose
# algorithms and compile.
WARM_UP = 3


class StepTimer:
    """Counts and times the steps of a case in its worker process, and lets it
    sleep between its samples.

    A case builds what it needs, calls :meth:`start`, and then :meth:`step`
    after each of its steps for ever: the call does not return before the case
    is to go on, and ends the process after the last sample. So the case may
    be any loop, that of a runner as well.

    All samples of a case have the same number of steps, as many as take
    ``seconds`` after the warm-up. The clock starts and stops when the device
    has nothing left to do. A sample begins with steps that are not timed, so
    that caches are as in the middle of a run; they are left out if they would
    take more than a fifth of the sample.

    Args:
        pipe (Connection): The way to :class:`Workers`.
        seconds (float): The least length of a sample.
        folder (str): A folder for whatever the case writes.

    Attributes:
        images (float): Images in a step; the case sets it, at the latest
            before its first step.
    """

    def __init__(self, pipe: Connection, seconds: float, folder: str) -> None:
        self.pipe = pipe
        self.seconds = seconds
        self.folder = folder
        self.images = 0.
        self._memory = None
        self._loop = None
        self._began = 0.
        self._stopped_at = None

    def watch_memory(self) -> None:
        """Count memory from here on: called before the model is built."""
        self._memory = PeakMemory()

    def start(self,
              images: float = 0.,
              warm_up: int = WARM_UP,
              lead_in: int = 1,
              **facts: Any) -> None:
        """Everything is built: sleep until it is time to warm up.

        The peak of memory is that from here on, since building may take more
        than training; on a GPU from the end of the warm-up on.

        Args:
            images (float): Images in a step. Defaults to 0.
            warm_up (int): Steps of the warm-up. Defaults to 3.
            lead_in (int): Steps at the beginning of a sample that are not
                timed. Defaults to 1.
            **facts: What else there is to tell of the case, as plain data.
        """
        self.images = images
        if self._memory is not None:
            self._memory.forget()
        self._loop = self._run(warm_up, lead_in, facts)
        next(self._loop)

    def warmed_up(self) -> None:
        """The warm-up is over: called by a case that has one of its own."""
        if self._memory is not None and torch.cuda.is_available():
            # cuDNN has tried algorithms that take more room than the chosen.
            self._memory.forget()

    def step(self, count: int = 1) -> None:
        """A step is done, or several of them."""
        if self._stopped_at is None:
            self._loop.send(count)
        else:
            # The clock goes back to where it was stopped.
            self._began += self._clock() - self._stopped_at
            self._stopped_at = None

    def batch(self, index: int, length: int) -> None:
        """A batch from a data loader is done.

        Neither the last one of an epoch counts, which may be smaller, nor the
        first one, which waits for the loader to begin anew, nor what lies in
        between, such as a checkpoint.

        Args:
            index (int): Number of the batch, from 0. It may go on from epoch
                to epoch.
            length (int): Number of batches in an epoch.
        """
        self.step()
        if length > 2 and (index + 1) % length in (0, length - 1):
            # Until the next step, which is not counted.
            self._stopped_at = self._clock()

    def _run(self, warm_up: int, lead_in: int,
             facts: dict) -> Generator[None, int, None]:
        """All that happens. It goes on by a step at each ``yield``."""
        self._sleep(None)
        for _ in range(warm_up):
            yield
        self.warmed_up()
        self._began = self._clock()
        steps = 0
        while not steps or self._clock() - self._began < self.seconds:
            steps += yield
        memory = self._memory and self._memory.read()
        self._sleep(dict(images=self.images, peak_bytes=memory, facts=facts))
        while True:
            for _ in range(min(lead_in, steps // 5)):
                yield
            self._began = self._clock()
            done = 0
            while done < steps:
                done += yield
            self._sleep((self._clock() - self._began, done))

    def _clock(self) -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()

    def _sleep(self, told: Any) -> None:
        """Tell the main process something, and wait for its answer."""
        # The room on a GPU is for those that are awake.
        torch.cuda.empty_cache()
        self.pipe.send((told, None))
        if not self.pipe.recv():
            sys.exit()
