"""The memory allocator of the C library."""
import ctypes
from contextlib import suppress

__all__ = ['keep_freed_memory', 'return_freed_memory']

# Options of glibc's mallopt.
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3

# Bytes, more than any network's.
LARGE = 2**30


def keep_freed_memory() -> None:
    """Have freed memory kept for the next allocation.

    By default, glibc returns large blocks to the system or keeps them,
    depending on what was allocated before, and to get them again costs up to
    a tenth of a training step on a CPU.
    """
    with suppress(AttributeError, OSError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, LARGE)
        libc.mallopt(M_TRIM_THRESHOLD, LARGE)


def return_freed_memory() -> None:
    """Return what is free to the system now."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
