"""How many processes should load data."""
import os

from mmengine.device import get_device

__all__ = ['default_workers']

MAX_WORKERS = 8


def default_workers() -> int:
    """The number of workers for a data loader whose config names none.

    Returns:
        int: With an accelerator, one for each core that this process may
        count on, 8 at the most. Without one 0: the networks need the cores
        themselves, and workers would take them away.
    """
    if get_device() == 'cpu':
        return 0
    if hasattr(os, 'sched_getaffinity'):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    processes = int(os.environ.get('LOCAL_WORLD_SIZE', 1))
    return min(MAX_WORKERS, max(1, cores // processes))
