"""The machine: what it is, and its memory, cores and packages."""
import ctypes
import datetime
import importlib.util
import math
import os
import os.path as osp
import platform
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Dict, Iterable, Optional, Set, Tuple

import torch
from mmengine.device import get_device

from mcod_plugin.errors import ConfigError
from mcod_plugin.version import __version__

__all__ = [
    'GIB', 'cpu_flags', 'cpu_has_bfloat16', 'cpu_name', 'default_workers',
    'describe_machine', 'free_memory', 'keep_freed_memory', 'peak_memory',
    'process_memory', 'require_packages', 'usable_cores'
]

LIBRARIES = ('torch', 'torchvision', 'timm', 'mmengine', 'mmpretrain')
PACKAGE = osp.dirname(osp.dirname(osp.abspath(__file__)))
# How much time of the cores a control group grants.
CPU_LIMIT = '/sys/fs/cgroup/cpu.max'
# What numbers come from; reports that were just written make no other code.
CODE = ('mcod_plugin', 'configs', 'tools', 'benchmarks', 'setup.py')

# The instructions for bfloat16 of x86 and of ARM, as PyTorch and Linux call
# them.
BFLOAT16 = {
    'avx512_bf16', 'amx_bf16', 'avx_ne_convert', 'bf16', 'sve_bf16', 'svebf16'
}
# What oneDNN may be told to stay below, with AVX-512 and without bfloat16.
LIMITS = ('AVX512_CORE', 'AVX512_CORE_VNNI')

GIB = 1024**3
# Options of glibc's mallopt.
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
# Bytes, more than any network's; and the most that some versions take.
LARGE = 2**30
LARGEST_ALLOWED = 2**25

MAX_WORKERS = 8


def describe_machine() -> Dict[str, Any]:
    """What numbers depend on besides settings: ``device``, ``versions`` by
    library, ``commit`` of this code and whether it is ``dirty`` (both None if
    no repository tracks it), and the ``date``."""
    commit, dirty = _code()
    return dict(
        device=torch.cuda.get_device_name()
        if torch.cuda.is_available() else cpu_name(),
        versions=dict({name: _version(name)
                       for name in LIBRARIES},
                      mcod_plugin=__version__,
                      python=platform.python_version()),
        commit=commit,
        dirty=dirty,
        date=datetime.datetime.now().astimezone().isoformat(
            timespec='seconds'))


def cpu_name() -> str:
    """The name of the processor, whatever other devices there are, or its
    architecture where the system does not tell."""
    return (_proc('cpuinfo').get('model name') or platform.processor()
            or platform.machine())


def cpu_flags() -> Set[str]:
    """The processor's sets of instructions, as PyTorch calls them or, where it
    does not tell, Linux; empty if neither does."""
    capabilities = getattr(torch.cpu, 'get_capabilities', None)
    if capabilities is not None:
        return {name for name, has in capabilities().items() if has is True}
    table = _proc('cpuinfo')
    # On x86, and on ARM.
    return set((table.get('flags') or table.get('Features', '')).split())


def cpu_has_bfloat16() -> bool:
    """Whether the processor computes in bfloat16 by itself, so that it is
    faster than float32: oneDNN takes bfloat16 here, which heeds
    ``ONEDNN_MAX_CPU_ISA``, and the processor has instructions for it.

    Where it does not, PyTorch's own loops or the emulation of oneDNN, which
    also serves with AVX-512 alone, take several times as long as float32.
    """
    takes = getattr(torch.ops.mkldnn, '_is_mkldnn_bf16_supported', None)
    limit = os.environ.get('ONEDNN_MAX_CPU_ISA',
                           os.environ.get('DNNL_MAX_CPU_ISA', ''))
    if takes is None or not takes() or limit.upper() in LIMITS:
        return False
    flags = cpu_flags()
    return not flags or not BFLOAT16.isdisjoint(flags)


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


def free_memory(device: torch.device) -> int:
    """The memory of the CPU or a GPU that may still be taken, in bytes."""
    if device.type == 'cuda':
        return torch.cuda.mem_get_info(device)[0]
    found = _proc('meminfo').get('MemAvailable')
    if found is None:
        # Not Linux. What is in use can be swapped out, within limits.
        return os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    return int(found.split()[0]) * 1024


def peak_memory() -> int:
    """The most memory that this process has held, in bytes: on a GPU what
    PyTorch has allocated there, otherwise resident memory, 0 if the system
    does not tell."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return process_memory('VmHWM')


def process_memory(name: str) -> int:
    """A number in bytes from the kernel's account of this process, 0 if it
    keeps none: ``'VmRSS'``, what is resident now, or ``'VmHWM'``, the most
    that was; see ``proc_pid_status(5)``."""
    return int(_proc('self/status').get(name, '0').split()[0]) * 1024


def _proc(name: str) -> Dict[str, str]:
    """A table of the kernel, such as ``meminfo``, empty where there is none;
    of several processors that of the last one."""
    try:
        with open(f'/proc/{name}') as file:
            rows = [line.partition(':') for line in file]
    except OSError:
        return {}  # Only Linux has it.
    return {key.strip(): value.strip() for key, _, value in rows}


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


def default_workers() -> int:
    """The number of workers for a data loader whose config names none. With an
    accelerator it is one for each core that this process may count on, 8 at
    the most. Without one it is 0: the networks need the cores themselves, and
    workers would take them away."""
    if get_device() == 'cpu':
        return 0
    processes = int(os.environ.get('LOCAL_WORLD_SIZE', 1))
    return min(MAX_WORKERS, max(1, usable_cores() // processes))


def usable_cores() -> int:
    """The number of cores that this process may use: those that it is bound
    to, as by SLURM, and no more than the time that its control group grants,
    as in a container; at least 1."""
    if hasattr(os, 'sched_getaffinity'):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    try:
        with open(CPU_LIMIT) as file:
            quota, period = file.read().split()
        cores = min(cores, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):
        pass  # There is no such group, or it says 'max'.
    return max(1, cores)


def require_packages(setting: str, packages: Iterable[str],
                     extra: str) -> None:
    """Raise unless packages, by the names of their imports, are installed, and
    tell what needs them and the extra of this plugin that they come with."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise ConfigError(f'{setting} needs the package {package}, which '
                              'is not installed; get it with: pip install '
                              f'"mcod-plugin[{extra}]"')
