import multiprocessing
import os
import os.path as osp
import signal
import sys
import tempfile
import time
import traceback
from contextlib import contextmanager, suppress
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from typing import Any, Callable, Dict, Iterator

import torch

from mcod_plugin.errors import ConfigError, one_line
from .step_timer import StepTimer

# Seconds for a worker to end by itself.
GRACE = 3


class Workers:
    """A process for each case, of which one runs at a time.

    All of them are built before the first one warms up. While one of them is
    measured, the others sleep. Whatever happens, none of the processes is
    left when the ``with`` block is.

    Args:
        cases (dict[str, Callable]): By name, what a process does. It takes a
            :class:`StepTimer` and must be importable.
        seconds (float): The least length of a sample. Defaults to 1.
        threads (int): Number of PyTorch's threads in each process.
            Defaults to 1.

    Examples:
        >>> with Workers(dict(bare=...)) as workers:
        ...     workers.wait('bare')
        ...     workers.resume('bare')
        ...     workers.resume('bare')
        dict(images=128, peak_bytes=70000000, facts={})
        (1.01, 17)
    """

    def __init__(self,
                 cases: Dict[str, Callable[[StepTimer], None]],
                 seconds: float = 1.,
                 threads: int = 1) -> None:
        self._cases = cases
        self._options = (seconds, threads)
        self._processes = {}
        self._pipes = {}

    def __enter__(self) -> 'Workers':
        self._folder = tempfile.TemporaryDirectory(prefix='mcod_benchmark_')
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self) -> None:
        # A process that uses a GPU cannot be forked.
        context = multiprocessing.get_context(
            'spawn' if torch.cuda.is_available() else 'forkserver')
        if context.get_start_method() == 'forkserver':
            context.set_forkserver_preload(['speed.preload'])
            with _for_children():
                forkserver.ensure_running()
            # This waits until it has imported all, which may be interrupted.
            process = context.Process(target=time.sleep, args=(0, ))
            process.start()
            process.join()
        with _for_children():
            for index, (name, case) in enumerate(self._cases.items()):
                folder = osp.join(self._folder.name, str(index))
                os.mkdir(folder)
                self._pipes[name], pipe = context.Pipe()
                process = context.Process(
                    target=_work,
                    args=(case, pipe, folder, *self._options),
                    name=name)
                process.start()
                self._processes[name] = process
                # So that the death of the process closes the pipe.
                pipe.close()

    def wait(self, name: str) -> Any:
        """Wait until a case sleeps.

        Returns:
            Any: What it tells: None when it is built; after the warm-up
            a dict of ``images`` in a step, ``peak_bytes`` of memory (None if
            unknown) and ``facts``; the seconds and the number of steps after
            a sample.

        Raises:
            ConfigError: If it fails.
        """
        process, pipe = self._processes[name], self._pipes[name]
        wait([pipe, process.sentinel])
        with suppress(EOFError, OSError):
            if pipe.poll():
                told, error = pipe.recv()
                if error is None:
                    return told
                message, details = error
                raise ConfigError(f'{name}: {message}') from RuntimeError(
                    details)
        process.join()
        code = process.exitcode
        cause = signal.Signals(-code).name if code < 0 else f'exit code {code}'
        raise ConfigError(f'{name}: its process died ({cause})')

    def resume(self, name: str) -> Any:
        """Wake a case up and wait until it sleeps again, see :meth:`wait`."""
        # What has become of a dead one is told when it should answer.
        with suppress(OSError):
            self._pipes[name].send(True)
        return self.wait(name)

    def __exit__(self, *args) -> None:
        for pipe in self._pipes.values():
            with suppress(OSError):
                pipe.send(False)
            pipe.close()
        end = time.monotonic() + GRACE
        for process in self._processes.values():
            process.join(max(0, end - time.monotonic()))
            if process.exitcode != 0:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.kill()
                process.join()
        self._folder.cleanup()


@contextmanager
def _for_children() -> Iterator[None]:
    """Processes that start in this block find the modules that this one
    finds, do not warn of what they import, and do not notice Ctrl-C, with
    which the main process deals."""
    before = dict(os.environ)
    # The server preloads its modules before it is told of this path.
    os.environ['PYTHONPATH'] = os.pathsep.join(sys.path)
    os.environ['PYTHONWARNINGS'] = 'ignore'
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        os.environ.clear()
        os.environ.update(before)


def _work(case: Callable[[StepTimer], None], pipe: Connection, folder: str,
          seconds: float, threads: int) -> None:
    """The life of a worker."""
    # It can then be ended together with its data loaders' workers.
    os.setpgid(0, 0)
    output = os.open(osp.join(folder, 'output'), os.O_CREAT | os.O_WRONLY)
    os.dup2(output, 1)
    os.dup2(output, 2)
    torch.set_num_threads(threads)
    try:
        case(StepTimer(pipe, seconds, folder))
        raise RuntimeError('it came to an end before the benchmark')
    except (BrokenPipeError, EOFError):
        pass  # The benchmark is gone.
    except Exception as error:
        message = one_line(error) or type(error).__name__
        with suppress(OSError):
            pipe.send((None, (message, traceback.format_exc())))
