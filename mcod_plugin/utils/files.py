"""Writing files and folders so that whoever reads one finds all of it.

What is written lies beside its place until it is complete and on the disk;
then it is renamed. The writer holds a lock on it, which ends with the process
however that ends, so that what killed processes have left is told from what
others are still at.
"""
import errno
import os
import os.path as osp
import re
import shutil
import tempfile
import uuid
from contextlib import contextmanager, suppress
from glob import escape, glob
from typing import Iterator, List, Optional, Sequence

from mcod_plugin.errors import ConfigError

try:
    import fcntl
except ImportError:
    # Windows: there are no such locks, so what others have left stays.
    fcntl = None

__all__ = [
    'check_folder', 'check_out', 'claim', 'hold', 'missing_folders',
    'new_file', 'new_folder', 'remove_dead', 'remove_empty', 'sweep', 'sync',
    'try_lock', 'write_text'
]

# What a lock that another process has is refused with.
TAKEN = (errno.EWOULDBLOCK, errno.EACCES)

# What ``new_file`` makes, and the checkpoints of earlier versions.
PART = re.compile(r'\.[0-9a-f]{32}\.part$|(^|_)(epoch|iter)_\d+\.pth\.part$')


@contextmanager
def new_file(path: str) -> Iterator[str]:
    """A file to write into, which takes its place at the end of the block, or
    is gone if that fails: whoever reads it finds all of it, or what was there
    before, also if the process is killed or the machine stops.

    What killed writers of the same file have left is removed.

    Args:
        path (str): Its place. A file that is there is replaced.

    Yields:
        str: An empty file beside its place, to be written to. No other
        process has the same name, so that of two that write one file the last
        one wins.
    """
    for part in glob(f'{escape(path)}.*.part'):
        if PART.search(part):
            remove_dead(part)
    part = f'{path}.{uuid.uuid4().hex}.part'
    try:
        # It gets the permissions of any new file.
        with hold(part):
            yield part
            sync(part)
            os.replace(part, path)
        sync(osp.dirname(osp.abspath(path)))
    finally:
        with suppress(OSError):
            os.remove(part)


def write_text(path: str, text: str) -> None:
    """Write a file as a whole, see :func:`new_file`."""
    with new_file(path) as part, open(part, 'w', encoding='utf-8') as file:
        file.write(text)


def sweep(folder: str) -> None:
    """Remove the incomplete files in a folder, which need not exist, whose
    writers were killed. Folders in it are left alone."""
    if osp.isdir(folder):
        for name in os.listdir(folder):
            if PART.search(name):
                remove_dead(osp.join(folder, name))


@contextmanager
def hold(path: str) -> Iterator[None]:
    """Show others that a file, which is made if it is not there, or a folder
    is being written, until the block or the process ends."""
    if fcntl is None:
        if not osp.isdir(path):
            os.close(_open(path, os.O_CREAT))
        yield
        return
    while True:
        handle = _open(path, os.O_CREAT)
        try:
            # Some file systems have no locks; nothing is removed there.
            with suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_EX)
            # It may have been taken for a dead one before it was locked.
            if _is_at(path, handle):
                yield
                return
        finally:
            os.close(handle)


def try_lock(handle: int) -> bool:
    """Lock an open file, unless another process has, and tell whether nobody
    else has it. The lock ends when the file is closed, or its process ends.
    Where files cannot be locked, as on some network file systems, it is taken
    for granted."""
    if fcntl is not None:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno not in TAKEN
    return True


@contextmanager
def claim(path: str, owner: str) -> Iterator[Optional[str]]:
    """Keep other processes from what a file stands for, until the block or
    this process ends. Those that it has forked, such as the workers of a data
    loader, may outlive it and keep nobody away.

    The file is made with a text for the others, and removed again. Yielded is
    the text of the other process that has it; None if none has, which is taken
    for granted where files cannot be locked.
    """
    if fcntl is None:
        yield None
        return
    while True:
        handle = _open(path, os.O_CREAT)
        try:
            try:
                # Unlike those of ``flock``, it is the process's own.
                fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in TAKEN:
                    yield os.read(handle, 1000).decode(errors='replace')
                    return
            # Its owner may have removed it before it was locked.
            if _is_at(path, handle):
                os.ftruncate(handle, 0)
                os.write(handle, owner.encode())
                try:
                    yield None
                finally:
                    # It may have been removed, and be another's since.
                    if _is_at(path, handle):
                        with suppress(OSError):
                            os.remove(path)
                return
        finally:
            os.close(handle)


def _is_at(path: str, handle: int) -> bool:
    """Whether a file that is open is the one at a path."""
    try:
        return osp.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def remove_dead(path: str) -> None:
    """Remove an incomplete file or folder unless its writer still lives, see
    :func:`hold`."""
    if fcntl is None:
        return
    with suppress(OSError):
        handle = _open(path)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if osp.isdir(path):
                shutil.rmtree(path)
            else:
                os.remove(path)
        finally:
            os.close(handle)


def sync(path: str) -> None:
    """Have the disk take what was written to a file, or the names in a
    folder."""
    if fcntl is None and osp.isdir(path):
        # Windows opens no folders.
        return
    handle = _open(path)
    try:
        os.fsync(handle)
    except OSError:
        # Some file systems do not know it of folders.
        if not osp.isdir(path):
            raise
    finally:
        os.close(handle)


def _open(path: str, flags: int = 0) -> int:
    if osp.isdir(path):
        return os.open(path, os.O_RDONLY)
    # A network's file system locks only what may be written to.
    return os.open(path, os.O_RDWR | flags, 0o666)


def check_out(setting: str, path: str) -> None:
    """Raise unless the file that an argument names can be written, before
    there is work to lose: it must have a name, lie in a folder that exists and
    takes files, and be neither a folder itself nor a file that must not be
    written to."""
    _check_named(setting, path)
    folder = osp.dirname(osp.abspath(path))
    if not osp.isdir(folder):
        raise ConfigError(f'{setting} {path}: the folder {folder} does not '
                          'exist; make it first')
    if osp.isdir(path):
        raise ConfigError(f'{setting} {path} is a folder; name a file in it')
    try:
        # Permissions do not tell: root has them all, even in /proc.
        with tempfile.NamedTemporaryFile(
                prefix=f'.{osp.basename(path)}.', dir=folder):
            pass
    except OSError as error:
        raise ConfigError(f'{setting} {path}: no such file can be made in '
                          f'{folder} ({error.strerror})') from error
    if osp.exists(path) and not os.access(path, os.W_OK):
        raise ConfigError(f'{setting} {path} must not be written to')


def _check_named(setting: str, path: str) -> None:
    # An empty path would stand for the folder that the user is in.
    if not path.strip():
        raise ConfigError(f'{setting} must be the name of what to write; got '
                          f'{path!r}')


def check_folder(setting: str, path: str) -> None:
    """Raise unless a folder can be written to, or made. An address such as
    ``s3://bucket`` is not looked at."""
    if '://' in path:
        return
    missing = missing_folders(path)
    place = osp.dirname(missing[-1]) if missing else osp.abspath(path)
    if not osp.isdir(place) or not os.access(place, os.W_OK):
        reason = 'cannot be written to' if osp.isdir(place) else 'is no folder'
        raise ConfigError(f'{setting} {path} cannot be used: {place} '
                          f'{reason}')


def missing_folders(path: str) -> List[str]:
    """The folders that making a folder would make, as absolute paths, deepest
    first; none for an address such as ``s3://bucket``."""
    if '://' in path:
        return []
    path = osp.abspath(path)
    missing = []
    while not osp.lexists(path):
        missing.append(path)
        path = osp.dirname(path)
    return missing


def _check_free(out: str, parts: Optional[Sequence[str]]) -> None:
    """Raise if some parts of a folder, or with None all of it, are there."""
    for part in parts or ():
        if osp.lexists(osp.join(out, part)):
            raise ConfigError(f'--out {out}: there is a {part} already; '
                              'remove it, or name another folder')
    if parts is None and osp.isdir(out) and os.listdir(out):
        raise ConfigError(f'--out {out} is not empty; name a new folder')


def _move(folder: str, out: str, parts: Sequence[str]) -> None:
    """Move those parts of a folder that it has."""
    for part in parts:
        source, place = osp.join(folder, part), osp.join(out, part)
        if osp.lexists(source):
            os.makedirs(osp.dirname(place), exist_ok=True)
            os.replace(source, place)


def remove_empty(folders: List[str]) -> None:
    """Remove those of some folders, deepest first, that are empty."""
    for folder in folders:
        if osp.isdir(folder) and not os.listdir(folder):
            os.rmdir(folder)


@contextmanager
def new_folder(out: str,
               discard: bool = False,
               parts: Optional[Sequence[str]] = None) -> Iterator[str]:
    """A folder to write into, which takes its place at the end of the block,
    or is gone if that fails. A folder that is there stays, with its
    permissions, and gets what was written. What killed processes have left of
    the same folder is removed.

    Args:
        out (str): Its place, as ``--out`` names it; nothing, or an empty
            folder, or a link to one.
        discard (bool): Whether it is to be gone at the end anyhow, so that
            its place need not be free. Defaults to False.
        parts (Sequence[str], optional): The folders in it that are written,
            such as ``vgg/onnx``; what else is there stays. Defaults to None:
            it must be new or empty.

    Yields:
        str: The folder, beside its place.

    Raises:
        ConfigError: If something is there, or it cannot be written.
    """
    _check_named('--out', out)
    # A link stays, and what it leads to is filled.
    out = osp.realpath(out) if osp.isdir(out) else osp.abspath(out)
    if osp.ismount(out):
        raise ConfigError(f'--out {out} is a mount point, into which nothing '
                          'can be moved; name a new folder in it')
    if not discard:
        _check_free(out, parts)
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
            if discard:
                return
            # Not what temporary folders get, but what any other does.
            mask = os.umask(0)
            os.umask(mask)
            os.chmod(folder, 0o777 & ~mask)
            for place, _, files in os.walk(folder):
                for file in files:
                    sync(osp.join(place, file))
                sync(place)
            # Others may have been faster.
            _check_free(out, parts)
            if osp.isdir(out):
                _move(folder, out, parts or os.listdir(folder))
                sync(out)
            else:
                os.replace(folder, out)
        sync(parent)
    except OSError as error:
        raise ConfigError(f'--out {out} cannot be written: '
                          f'{error.strerror or error}') from error
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        remove_empty(made)
