"""What a measurement was made on."""
import datetime
import os
import os.path as osp
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Dict, Optional, Set, Tuple

import torch

from mcod_plugin.version import __version__

__all__ = ['cpu_flags', 'cpu_has_bfloat16', 'cpu_name', 'describe_machine']

LIBRARIES = ('torch', 'torchvision', 'timm', 'mmengine', 'mmpretrain')
PACKAGE = osp.dirname(osp.dirname(osp.abspath(__file__)))
# What numbers come from; reports that were just written make no other code.
CODE = ('mcod_plugin', 'configs', 'tools', 'benchmarks', 'setup.py')

# The instructions for bfloat16 of x86 and of ARM, as PyTorch and Linux call
# them.
BFLOAT16 = {
    'avx512_bf16', 'amx_bf16', 'avx_ne_convert', 'bf16', 'sve_bf16', 'svebf16'
}
# What oneDNN may be told to stay below, with AVX-512 and without bfloat16.
LIMITS = ('AVX512_CORE', 'AVX512_CORE_VNNI')


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


def cpu_flags() -> Set[str]:
    """What the processor can do.

    Returns:
        set[str]: Its sets of instructions, as PyTorch calls them or, where it
        does not tell, Linux; empty if neither does.
    """
    capabilities = getattr(torch.cpu, 'get_capabilities', None)
    if capabilities is not None:
        return {name for name, has in capabilities().items() if has is True}
    try:
        with open('/proc/cpuinfo') as file:
            for line in file:
                # On x86, and on ARM.
                if line.startswith(('flags', 'Features')):
                    return set(line.partition(':')[2].split())
    except OSError:
        pass  # Only Linux has it.
    return set()


def cpu_has_bfloat16() -> bool:
    """Whether the processor computes in bfloat16 by itself, so that it is
    faster than float32.

    Where it does not, PyTorch's own loops or the emulation of oneDNN, which
    also serves with AVX-512 alone, take several times as long as float32.

    Returns:
        bool: True if oneDNN takes bfloat16 here, which heeds
        ``ONEDNN_MAX_CPU_ISA``, and the processor has instructions for it.
    """
    takes = getattr(torch.ops.mkldnn, '_is_mkldnn_bf16_supported', None)
    limit = os.environ.get('ONEDNN_MAX_CPU_ISA',
                           os.environ.get('DNNL_MAX_CPU_ISA', ''))
    if takes is None or not takes() or limit.upper() in LIMITS:
        return False
    flags = cpu_flags()
    return not flags or not BFLOAT16.isdisjoint(flags)


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
