"""What a measurement was made on."""
import datetime
import os.path as osp
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Dict, Optional, Tuple

import torch

from mcod_plugin.version import __version__

__all__ = ['cpu_name', 'describe_machine']

LIBRARIES = ('torch', 'torchvision', 'timm', 'mmengine', 'mmpretrain')
PACKAGE = osp.dirname(osp.dirname(osp.abspath(__file__)))
# What numbers come from; reports that were just written make no other code.
CODE = ('mcod_plugin', 'configs', 'tools', 'benchmarks', 'setup.py')


def describe_machine() -> Dict[str, Any]:
    """What numbers depend on besides settings.

    Returns:
        dict[str, Any]: ``device``, ``versions`` by library, ``commit`` of
        this code and whether it is ``dirty`` (both None if no repository
        tracks it), and the ``date``.
    """
    commit, dirty = _code()
    return dict(
        device=_device(),
        versions=dict({name: _version(name)
                       for name in LIBRARIES},
                      mcod_plugin=__version__,
                      python=platform.python_version()),
        commit=commit,
        dirty=dirty,
        date=datetime.datetime.now().astimezone().isoformat(
            timespec='seconds'))


def cpu_name() -> str:
    """The processor, whatever other devices there are.

    Returns:
        str: Its name, or its architecture where the system does not tell.
    """
    try:
        with open('/proc/cpuinfo') as file:
            for line in file:
                if line.startswith('model name'):
                    return line.partition(':')[2].strip()
    except OSError:
        pass  # Only Linux has it.
    return platform.processor() or platform.machine()


def _device() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return cpu_name()


def _version(name: str) -> Optional[str]:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _code() -> Tuple[Optional[str], Optional[bool]]:
    """The commit of this code, and whether it has changes."""
    # Installed into a folder within some other project, it is none of its.
    if not _git('ls-files', osp.join(PACKAGE, '__init__.py')):
        return None, None
    changes = _git('status', '--porcelain', '--untracked-files=no', '--',
                   *CODE)
    return _git('rev-parse', 'HEAD'), bool(changes)


def _git(*args: str) -> Optional[str]:
    try:
        return subprocess.run(
            ['git', '-C', osp.dirname(PACKAGE), *args],
            capture_output=True,
            check=True,
            text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
