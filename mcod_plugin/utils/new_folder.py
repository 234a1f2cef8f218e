import os
import os.path as osp
import shutil
import tempfile
from contextlib import contextmanager
from glob import escape, glob
from typing import Iterator

from mcod_plugin.errors import ConfigError
from .files import hold, remove_dead, sync
from .leftovers import missing_folders, remove_empty

__all__ = ['new_folder']


@contextmanager
def new_folder(out: str) -> Iterator[str]:
    """A folder to write into, which takes its place at the end of the block,
    or is gone if that fails. What killed processes have left of the same
    folder is removed.

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
        name = f'.{osp.basename(out)}.'
        for part in glob(
                osp.join(escape(parent), f'{escape(name)}????????.part')):
            remove_dead(part)
        folder = tempfile.mkdtemp('.part', name, parent)
        with hold(folder):
            yield folder
            # Not what temporary folders get, but what any other does.
            mask = os.umask(0)
            os.umask(mask)
            os.chmod(folder, 0o777 & ~mask)
            for place, _, files in os.walk(folder):
                for file in files:
                    sync(osp.join(place, file))
                sync(place)
            os.replace(folder, out)
        sync(parent)
    except OSError as error:
        raise ConfigError(f'--out {out} cannot be written: '
                          f'{error.strerror or error}') from error
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        remove_empty(made)
