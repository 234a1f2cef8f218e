import os
import os.path as osp
import shutil
import tempfile
from contextlib import contextmanager
from typing import Iterator

from mcod_plugin.errors import ConfigError
from .leftovers import missing_folders, remove_empty

__all__ = ['new_folder']


@contextmanager
def new_folder(out: str) -> Iterator[str]:
    """A folder to write into, which takes its place at the end of the block,
    or is gone if that fails.

    Args:
        out (str): Its place, as ``--out`` names it; nothing, or an empty
            folder.

    Yields:
        str: The folder, beside its place.

    Raises:
        ConfigError: If something is there, or it cannot be written.
    """
    out = osp.abspath(out)
    if osp.isdir(out) and os.listdir(out):
        raise ConfigError(f'--out {out} is not empty; name a new folder')
    if osp.lexists(out) and not osp.isdir(out):
        raise ConfigError(f'--out {out} is no folder')
    parent = osp.dirname(out)
    made = missing_folders(parent)
    folder = None
    try:
        os.makedirs(parent, exist_ok=True)
        folder = tempfile.mkdtemp('.part', f'.{osp.basename(out)}.', parent)
        yield folder
        # Not what temporary folders get, but what any other does.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(folder, 0o777 & ~mask)
        os.replace(folder, out)
    except OSError as error:
        raise ConfigError(f'--out {out} cannot be written: '
                          f'{error.strerror or error}') from error
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        remove_empty(made)
