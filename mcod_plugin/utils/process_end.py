"""How processes end: by what, and of several of a run by which one's
fault."""
import json
import os
import sys
from contextlib import suppress
from typing import Any, NamedTuple, Optional

from mcod_plugin.errors import one_line

__all__ = [
    'FAILED', 'STOPPED', 'ProcessEnd', 'begin_run', 'first_end',
    'is_first_to_tell', 'leave_others', 'stop_code'
]

# How a run that has not finished has ended.
STOPPED, FAILED = 'stopped', 'failed: '
# Runs that this process has begun, of which all have begun as many.
_runs = 0


class ProcessEnd(NamedTuple):
    """How a process of a run has ended.

    Args:
        rank (int): Its number, from 0.
        outcome (str): ``'stopped'``, or ``'failed: '`` and the error.
        code (int): Its exit code.
    """
    rank: int
    outcome: str
    code: int

    @property
    def is_own(self) -> bool:
        """bool: Whether it is this process."""
        return self.rank == _rank()


def stop_code(error: Optional[BaseException]) -> Optional[int]:
    """The exit code of a process that was stopped; None if it was not. What
    the stop itself has broken, such as the workers of a data loader, may have
    raised the error that ended it."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return 130
        if isinstance(error, SystemExit) and error.code in (130, 143):
            return error.code
        error = error.__context__
    return None


def begin_run() -> None:
    """Begin another run: the end of one before it is not its own."""
    global _runs
    _runs += 1


def first_end(error: BaseException, code: int = 1) -> ProcessEnd:
    """How the process of a run ended that did so first.

    A process that ends takes its connections with it, and so the others: what
    surprises them is not the reason. Each notes its own end here before it
    closes them; what was noted first stays.

    Args:
        error (BaseException): What ends this process.
        code (int): Its exit code, unless it was stopped. Defaults to 1.

    Returns:
        ProcessEnd: That of this process, unless another one was faster. Where
        the reason is another one's, it begins with ``rank 1:`` or the like.
    """
    stopped = stop_code(error)
    if stopped is None and isinstance(error, Exception):
        own = ProcessEnd(_rank(), FAILED + one_line(error), code)
    else:
        own = ProcessEnd(_rank(), STOPPED, stopped or code)
    store = _store()
    if store is None:
        return own
    try:
        first = ProcessEnd(
            *json.loads(
                store.compare_set(f'ended {_runs}', '', json.dumps(own))))
    except RuntimeError:
        # The process that keeps it is gone: the first one, or the launcher.
        return own if own.rank == 0 else ProcessEnd(
            0, f'{FAILED}rank 0 is gone', code)
    if first.rank == own.rank or first.outcome in (own.outcome, STOPPED):
        return first
    reason = first.outcome[len(FAILED):]
    return first._replace(outcome=f'{FAILED}rank {first.rank}: {reason}')


def is_first_to_tell(message: str) -> bool:
    """Whether this process is to tell a reason: of those that share it one,
    and before they have found each other one of each machine."""
    store = _store()
    if store is None:
        return os.environ.get('LOCAL_RANK', '0') == '0'
    try:
        return store.add(f'told {message}', 1) == 1
    except RuntimeError:
        return True  # The process that keeps it has gone.


def leave_others() -> None:
    """End the connections to the other processes, if there are any, once all
    have come to their end.

    Threads of PyTorch that still hold a tensor of what was sent last would
    abort the process as Python shuts down.
    """
    if _store() is None:
        return
    import torch.distributed as dist
    with suppress(RuntimeError):  # Another one has failed since.
        dist.barrier()
    dist.destroy_process_group()


def _rank() -> int:
    return int(os.environ.get('RANK', '0'))


def _store() -> Any:
    """What the processes of a run share, if there are several."""
    if 'torch' not in sys.modules:
        return None
    import torch.distributed as dist
    if not dist.is_available() or not dist.is_initialized():
        return None
    return dist.distributed_c10d._get_default_store()
