import builtins
import datetime
import io
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from mcod_plugin.engine.runner import CohortRunner
from mcod_plugin.utils import machine
from mcod_plugin.utils.machine import (GIB, LIBRARIES, MAX_WORKERS, cpu_flags,
                                       cpu_has_bfloat16, default_workers,
                                       describe_machine, free_memory,
                                       peak_memory, process_memory)
from mcod_plugin.version import __version__

ROOT = Path(__file__).parents[2]


def git(*args):
    return subprocess.run(['git', '-C', str(ROOT), *args],
                          capture_output=True,
                          text=True)


def test_versions_and_date():
    found = describe_machine()
    assert found['versions'].pop('mcod_plugin') == __version__
    assert found['versions'].pop('python').startswith('3.')
    assert found['versions'] == {name: version(name) for name in LIBRARIES}
    age = datetime.datetime.now().astimezone(
    ) - datetime.datetime.fromisoformat(found['date'])
    assert abs(age.total_seconds()) < 60
    assert found['device']
    if torch.cuda.is_available():
        assert found['device'] == torch.cuda.get_device_name()


@pytest.mark.parametrize('limit, cores', [('150000 100000', 2),
                                          ('max 100000', 4),
                                          ('900000 100000', 4),
                                          ('20000 100000', 1), (None, 4)])
def test_usable_cores(tmp_path, monkeypatch, limit, cores):
    monkeypatch.setattr(os, 'sched_getaffinity', lambda process: {1, 2, 5, 7})
    monkeypatch.setattr(machine, 'CPU_LIMIT', str(tmp_path / 'cpu.max'))
    if limit is not None:
        (tmp_path / 'cpu.max').write_text(f'{limit}\n')
    assert machine.usable_cores() == cores


# As Linux tells of them: some AMD EPYC and a Xeon, and machines without.
ZEN4 = 'flags\t\t: fpu avx avx2 fma avx512f avx512_bf16 avx512_vnni\n'
ZEN3 = 'flags\t\t: fpu avx avx2 fma\n'
CASCADE_LAKE = 'flags\t\t: fpu avx avx2 fma avx512f avx512_vnni\n'
NEOVERSE_V1 = 'Features\t: fp asimd sve svebf16 bf16\n'
NEOVERSE_N1 = 'Features\t: fp asimd asimddp\n'
# As PyTorch does.
ON = dict(architecture='x86_64', avx2=True, avx512_f=True, avx512_bf16=True)
OFF = dict(ON, avx512_bf16=False, amx_bf16=False)
ARM = dict(architecture='arm64', neon=True, bf16=True, sve_max_length=32)


@pytest.fixture
def cpu(monkeypatch):
    """Puts another processor into the machine."""

    def become(told, takes=True):
        """What PyTorch tells of it, or what Linux does where PyTorch is too
        old for it, and whether oneDNN takes bfloat16 there."""
        for name in ('ONEDNN_MAX_CPU_ISA', 'DNNL_MAX_CPU_ISA'):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(
            torch.ops.mkldnn,
            '_is_mkldnn_bf16_supported',
            lambda: takes,
            raising=False)
        if isinstance(told, dict):
            monkeypatch.setattr(
                torch.cpu, 'get_capabilities', lambda: told, raising=False)
            return
        monkeypatch.delattr(torch.cpu, 'get_capabilities', raising=False)

        def read(path, *args, **kwargs):
            assert path == '/proc/cpuinfo'
            if told is None:
                raise FileNotFoundError(path)
            return io.StringIO(f'processor\t: 0\nmodel name\t: x\n{told}')

        monkeypatch.setattr(builtins, 'open', read)

    return become


@pytest.mark.parametrize(
    'told, takes, expected',
    [
        (ON, True, True),
        # Emulated by oneDNN, or not even that.
        (OFF, True, False),
        (OFF, False, False),
        (ON, False, False),
        (dict(OFF, amx_bf16=True), True, True),
        (dict(OFF, avx_ne_convert=True), True, True),
        (ARM, True, True),
        (dict(ARM, bf16=False), False, False),
        (ZEN4, True, True),
        (ZEN3, False, False),
        (CASCADE_LAKE, True, False),
        (NEOVERSE_V1, True, True),
        (NEOVERSE_N1, False, False),
        # All that is known is what oneDNN says.
        (None, True, True),
        (None, False, False),
    ])
def test_bfloat16_of_a_cpu(cpu, told, takes, expected):
    cpu(told, takes)
    assert cpu_has_bfloat16() is expected


def test_pytorch_without_onednn(cpu, monkeypatch):
    cpu(ON)
    monkeypatch.delattr(torch.ops.mkldnn, '_is_mkldnn_bf16_supported')
    monkeypatch.setattr(
        type(torch.ops.mkldnn), '__getattr__',
        lambda self, name: object.__getattribute__(self, name))
    assert not cpu_has_bfloat16()


@pytest.mark.parametrize('name', ['ONEDNN_MAX_CPU_ISA', 'DNNL_MAX_CPU_ISA'])
def test_instructions_that_are_left_out(cpu, monkeypatch, name):
    cpu(ON)
    for limit, expected in (('avx512_core', False), ('AVX512_CORE_VNNI',
                                                     False), ('ALL', True)):
        monkeypatch.setenv(name, limit)
        assert cpu_has_bfloat16() is expected


@pytest.mark.skipif(
    platform.machine() not in ('x86_64', 'AMD64'), reason='of x86')
@pytest.mark.parametrize('limit', ['AVX2', 'AVX512_CORE'])
def test_bfloat16_of_this_cpu_without_it(limit):
    done = subprocess.run([
        sys.executable, '-c',
        'from mcod_plugin.utils.machine import cpu_has_bfloat16; '
        'print(cpu_has_bfloat16())'
    ],
                          env=dict(os.environ, ONEDNN_MAX_CPU_ISA=limit),
                          cwd=ROOT,
                          capture_output=True,
                          check=True,
                          text=True)
    assert done.stdout == 'False\n'


@pytest.mark.skipif(
    not Path('/proc/cpuinfo').is_file(), reason='only Linux has it')
def test_this_cpu():
    """Both sources tell the same."""
    words = set(re.split(r'[\s:]+', Path('/proc/cpuinfo').read_text()))
    known = words & {'avx2', 'avx512_bf16', 'amx_bf16', 'bf16'}
    assert known and known <= cpu_flags()
    if 'avx2' in words:
        # Of oneDNN a user may have left something out.
        assert cpu_has_bfloat16() <= bool(
            words & {'avx512_bf16', 'amx_bf16', 'avx_ne_convert'})


@pytest.mark.skipif(
    git('rev-parse').returncode != 0, reason='for a repository')
def test_commit():
    found = describe_machine()
    assert found['commit'] == git('rev-parse', 'HEAD').stdout.strip()
    changes = git('status', '--porcelain', '--untracked-files=no', '--',
                  'mcod_plugin', 'configs', 'tools', 'benchmarks',
                  'setup.py').stdout
    assert found['dirty'] == bool(changes.strip())


def describe_in(folder):
    """The description that a copy of the package gives."""
    done = subprocess.run([
        sys.executable, '-c', 'import json; '
        'from mcod_plugin.utils import machine as it; '
        'print(it.__file__); print(json.dumps(it.describe_machine()))'
    ],
                          cwd=folder,
                          capture_output=True,
                          check=True,
                          text=True)
    file, found = done.stdout.splitlines()
    assert file.startswith(str(folder))
    return json.loads(found)


def test_commit_of_the_code_alone(tmp_path):

    def commit(*files):
        run('add', *files)
        run('-c', 'user.name=x', '-c', 'user.email=x@x', 'commit', '-qm', 'x')
        return run('rev-parse', 'HEAD').strip()

    def run(*args):
        return subprocess.run(['git', '-C', str(tmp_path), *args],
                              capture_output=True,
                              check=True,
                              text=True).stdout

    shutil.copytree(
        ROOT / 'mcod_plugin',
        tmp_path / 'mcod_plugin',
        ignore=shutil.ignore_patterns('__pycache__'))
    (tmp_path / 'docs').mkdir()
    report = tmp_path / 'docs' / 'results.md'
    report.write_text('no results yet')
    run('init', '-q')
    # A project into which the package was only installed is not its code.
    commit('docs')
    found = describe_in(tmp_path)
    assert (found['commit'], found['dirty']) == (None, None)
    head = commit('mcod_plugin')
    # A report that was just written makes no other code.
    report.write_text('results')
    found = describe_in(tmp_path)
    assert (found['commit'], found['dirty']) == (head, False)
    with open(tmp_path / 'mcod_plugin' / 'version.py', 'a') as file:
        file.write('# changed')
    found = describe_in(tmp_path)
    assert (found['commit'], found['dirty']) == (head, True)


# The kernel's account is not exact.
SLACK = 2**22


def test_free_memory():
    free = free_memory(torch.device('cpu'))
    assert type(free) is int and 0 < free < 2**20 * GIB
    if torch.cuda.is_available():
        assert free_memory(torch.device('cuda')) > 0


def test_peak_memory():
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    if device == 'cpu' and not process_memory('VmHWM'):
        pytest.skip('this system does not tell')
    values = torch.ones(2**26, dtype=torch.uint8, device=device)
    peak = peak_memory()
    assert type(peak) is int and peak >= 2**26
    del values
    assert peak_memory() >= peak - SLACK


def test_process_memory():
    now, peak = map(process_memory, ('VmRSS', 'VmHWM'))
    assert 0 <= now <= peak + SLACK < 2**20 * GIB
    assert process_memory('nothing') == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason='for CPUs')
def test_networks_on_a_cpu_keep_all_cores():
    assert default_workers() == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason='for GPUs')
def test_processes_share_the_cores(monkeypatch):
    assert 1 <= default_workers() <= MAX_WORKERS
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '10000')
    assert default_workers() == 1


@pytest.mark.parametrize('given, expected', [({}, default_workers()),
                                             (dict(num_workers=1), 1)])
def test_a_loader_without_a_number(tiny_config, given, expected):
    loader = tiny_config(in_memory=False).train_dataloader
    del loader['num_workers']
    loader.update(given)
    assert CohortRunner.build_dataloader(loader).num_workers == expected
    # The config is left as it is.
    assert loader.get('num_workers') == given.get('num_workers')


# It is a setting of the process, so the test has one of its own.
SCRIPT = """
import numpy as np
from mcod_plugin.utils.machine import keep_freed_memory


def resident():
    with open('/proc/self/status') as file:
        table = dict(line.split(':', 1) for line in file)
    return int(table['VmRSS'].split()[0]) / 1024


def growth():
    return resident() - start


start = resident()
for change in (None, keep_freed_memory):
    if change is not None:
        change()
    block = np.ones(64 * 1024**2, np.uint8)
    print(growth())
    del block
    print(growth())
"""


@pytest.mark.skipif(
    not sys.platform.startswith('linux'), reason='only Linux tells')
def test_freed_memory_is_kept():
    out = subprocess.run([sys.executable, '-c', SCRIPT],
                         check=True,
                         capture_output=True,
                         text=True).stdout
    used, returned, used_again, kept = map(float, out.split())
    # By default, a block of 64 MiB goes back to the system.
    assert used > 60 and returned < 4
    assert used_again > 60 and kept > 60
