"""Writing files."""
import os
import uuid
from contextlib import contextmanager, suppress
from typing import Iterator

__all__ = ['new_file', 'write_text']


@contextmanager
def new_file(path: str) -> Iterator[str]:
    """A file to write into, which takes its place at the end of the block, or
    is gone if that fails: whoever reads it finds all of it, or what was there
    before.

    Args:
        path (str): Its place. A file that is there is replaced.

    Yields:
        str: Where to write it, beside its place. No other process has the
        same name, so that of two that write one file the last one wins.
    """
    # Opened by whoever writes it, it gets the permissions of any new file.
    part = f'{path}.{uuid.uuid4().hex}.part'
    try:
        yield part
        os.replace(part, path)
    finally:
        with suppress(OSError):
            os.remove(part)


def write_text(path: str, text: str) -> None:
    """Write a file as a whole, see :func:`new_file`.

    Args:
        path (str): The file.
        text (str): All of its text.
    """
    with new_file(path) as part, open(part, 'w', encoding='utf-8') as file:
        file.write(text)
