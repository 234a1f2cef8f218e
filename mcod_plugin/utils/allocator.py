"""The memory allocator of the C library."""
import ctypes
from contextlib import suppress

__all__ = ['keep_freed_memory', 'return_freed_memory']

# Options of glibc's mallopt.
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3

# Bytes, more than any network's; and the most that some versions take.
LARGE = 2**30
LARGEST_ALLOWED = 2**25


def keep_freed_memory() -> None:
    """Have freed memory kept for the next allocation.

    By default, glibc returns large blocks to the system or keeps them,
    depending on what was allocated before. To get them again costs a page
    fault for every 4 KiB, in every step.
    """
    with suppress(AttributeError, OSError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, LARGE) or libc.mallopt(
            M_MMAP_THRESHOLD, LARGEST_ALLOWED)
        libc.mallopt(M_TRIM_THRESHOLD, LARGE)


def return_freed_memory() -> None:
    """Return what is free to the system now."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
