"""How much memory there is."""
import os

import torch

__all__ = ['GIB', 'free_memory', 'peak_memory', 'process_memory']

GIB = 1024**3


def free_memory(device: torch.device) -> int:
    """The memory that may still be taken.

    Args:
        device (torch.device): The CPU or a GPU.

    Returns:
        int: Its size in bytes.
    """
    if device.type == 'cuda':
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open('/proc/meminfo') as file:
            table = dict(line.split(':') for line in file)
        return int(table['MemAvailable'].split()[0]) * 1024
    except (OSError, KeyError):
        # Not Linux. What is in use can be swapped out, within limits.
        return os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')


def peak_memory() -> int:
    """The most memory that this process has held.

    Returns:
        int: Its size in bytes: on a GPU what PyTorch has allocated there,
        otherwise resident memory, 0 if the system does not tell.
    """
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return process_memory('VmHWM')


def process_memory(name: str) -> int:
    """A number from the kernel's account of this process.

    Args:
        name (str): ``'VmRSS'``, what is resident now, or ``'VmHWM'``, the
            most that was; see ``proc_pid_status(5)``.

    Returns:
        int: Its size in bytes, 0 if the kernel keeps no such account.
    """
    try:
        with open('/proc/self/status') as file:
            table = dict(line.split(':', 1) for line in file)
        return int(table[name].split()[0]) * 1024
    except (OSError, KeyError):
        return 0
