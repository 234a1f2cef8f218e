"""How much memory there is."""
import os

import torch

__all__ = ['GIB', 'free_memory']

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
