"""The tools in several processes, as each launcher starts them."""
import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from .conftest import ENVIRON, ROOT, TINY

pytestmark = pytest.mark.skipif(
    not dist.is_available() or not dist.is_gloo_available(),
    reason='needs gloo')

BINARIES = os.path.dirname(sys.executable)
# The images of an epoch are as many as those that 2 or 3 processes share.
COHORT = """\
_base_ = ['tiny.py']
train_dataloader = dict(batch_size=12, dataset=dict(indices=48))
val_dataloader = dict(batch_size=40)
default_hooks = dict(
    logger=dict(interval=1), checkpoint=dict(save_best=None))
train_cfg = dict(max_epochs=3)
"""
TORCHRUN = [sys.executable, '-m', 'torch.distributed.run']
# A worker that is lost once.
LOSS = """\
import os, signal
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class Loss(Hook):

    def before_train_epoch(self, runner):
        if (runner.epoch == 1 and runner.rank == 1
                and os.environ['TORCHELASTIC_RESTART_COUNT'] == '0'):
            os.kill(os.getpid(), signal.SIGKILL)
"""


# What each process validates by.
WATCH = """\
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class Watch(Hook):

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        buffers = dict(runner.model.module.named_buffers())
        torch.save(buffers, f'buffers_{runner.epoch}_{runner.rank}.pth')
"""


def port():
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return str(free.getsockname()[1])


def start(command, folder, **variables):
    return subprocess.Popen(
        list(map(str, command)),
        cwd=folder,
        env={
            **ENVIRON, 'PATH': f'{folder}:{BINARIES}:{ENVIRON["PATH"]}',
            'PYTHONPATH': f'{folder}:{ENVIRON.get("PYTHONPATH", "")}',
            **variables
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True)


def end(*processes):
    """Exit codes, outputs and errors."""
    found = [process.communicate(timeout=240) for process in processes]
    return [(process.returncode, *texts)
            for process, texts in zip(processes, found)]


def ranks(variables_of, size, command, folder):
    """Processes as SLURM or MPI start them."""
    place = port()
    return end(*(start(
        command,
        folder,
        MASTER_PORT=place,
        **{
            key: str(value)
            for key, value in variables_of(rank, size).items()
        }) for rank in range(size)))


def slurm(rank, size):
    return dict(
        SLURM_PROCID=rank,
        SLURM_LOCALID=rank,
        SLURM_NTASKS=size,
        SLURM_NODELIST='node[1-2]')


def mpi(rank, size):
    return dict(
        OMPI_COMM_WORLD_RANK=rank,
        OMPI_COMM_WORLD_LOCAL_RANK=rank,
        OMPI_COMM_WORLD_SIZE=size,
        OMPI_COMM_WORLD_LOCAL_SIZE=size)


@pytest.fixture
def cohort(tiny):
    (tiny / 'cohort.py').write_text(COHORT)
    return tiny


def weights(work_dir, epoch=3):
    path = Path(work_dir) / f'epoch_{epoch}.pth'
    return torch.load(path, weights_only=True)['state_dict']


def assert_equal(ours, theirs, **tolerances):
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        torch.testing.assert_close(value, theirs[key], **tolerances)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """What two processes of torchrun do if nothing happens."""
    folder = tmp_path_factory.mktemp('whole')
    (folder / 'tiny.py').write_text(TINY)
    (folder / 'cohort.py').write_text(COHORT)
    (folder / 'watch.py').write_text(WATCH)
    (folder / 'watched.py').write_text(
        "_base_ = ['cohort.py']\n"
        "custom_imports = dict(imports=['watch'])\n"
        "custom_hooks = [dict(type='mcod_plugin.DiscontinuousKDHook', "
        'weight=(1, 1)), '
        "dict(type='Watch')]\n")
    found, = end(
        start([
            'bash', ROOT / 'tools' / 'dist_train.sh', 'watched.py', 2,
            '--work-dir', 'run'
        ],
              folder,
              PORT=port()))
    assert found[0] == 0, found[2]
    return folder


def test_dry_run(cohort):
    """One of them tells what all of them do."""
    before = {*cohort.rglob('*')}
    (code, out, err), = end(
        start([
            'bash', ROOT / 'tools' / 'dist_train.sh', 'cohort.py', 2,
            '--dry-run', '--work-dir', 'run'
        ],
              cohort,
              PORT=port()))
    assert code == 0, err
    assert out.count('Dry run, 2 steps of each kind:') == 1
    assert 'The 6 steps of the run take about' in out
    assert {*cohort.rglob('*')} == before


def test_record_of_two_processes(whole):
    record = json.loads((whole / 'run' / 'record.json').read_text())
    assert record['batch_size'] == 24 and record['iterations'] == 6
    assert record['outcome'] == 'finished'


# What each process has trained on, and what has come of it.
SHOW = """\
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class Show(Hook):

    def after_train_iter(self, runner, batch_idx, data_batch, outputs):
        if runner.iter == 0:
            self.images = data_batch['inputs']

    def after_train(self, runner):
        weights = dict(runner.model.module.named_parameters())
        torch.save((self.images, weights), f'shown_{runner.rank}.pth')
"""


def test_views(cohort):
    """Each process has its own views, mixed by numbers of its own, and all
    have learned the same."""
    (cohort / 'show.py').write_text(SHOW)
    (cohort / 'views.py').write_text(
        "_base_ = ['cohort.py']\n"
        "custom_imports = dict(imports=['show'])\n"
        "custom_hooks = [dict(type='mcod_plugin.DiscontinuousKDHook', "
        'weight=(1, 1)), '
        "dict(type='Show')]\n"
        "model = dict(train_cfg=dict(\n"
        "    augments=dict(type='CutMix', alpha=1.)))\n"
        'train_dataloader = dict(dataset=dict(views=True))\n'
        'train_cfg = dict(max_epochs=1)\n')
    found, = end(
        start([
            'bash', ROOT / 'tools' / 'dist_train.sh', 'views.py', 2,
            '--work-dir', 'run'
        ],
              cohort,
              PORT=port()))
    assert found[0] == 0, found[2]
    (images, first), (others, second) = (
        torch.load(cohort / f'shown_{rank}.pth', weights_only=True)
        for rank in range(2))
    seen = [batch[name] for batch in (images, others)
            for name in ('resnet', 'vgg')]
    assert len({view.numpy().tobytes() for view in seen}) == 4
    assert_equal(first, second, rtol=0, atol=0)
    saved = weights(cohort / 'run', 1)
    assert_equal({key: saved[key] for key in first}, first)


@pytest.mark.parametrize('epoch', [2, 3])
def test_all_processes_validate_by_what_is_saved(whole, epoch):
    """Each has seen other images, so its batch norm has statistics of its
    own."""
    first, second = (
        torch.load(whole / f'buffers_{epoch}_{rank}.pth', weights_only=True)
        for rank in range(2))
    assert_equal(first, second, rtol=0, atol=0)
    saved = weights(whole / 'run', epoch)
    means = {key for key in first if key.endswith('running_mean')}
    assert means and all(first[key].any() for key in means)
    for key in means:
        assert torch.equal(first[key], saved[key]), key


def test_the_log_is_of_the_model_that_is_saved(whole, run_tool):
    """By one process and by two, as SLURM starts them."""
    record = json.loads((whole / 'run' / 'record.json').read_text())
    names = ('resnet/top1', 'vgg/top1', 'ensemble/top1')
    done = run_tool(
        'test',
        'cohort.py',
        'run/epoch_3.pth',
        '--out',
        'one.json',
        cwd=whole)
    assert done.code == 0, done.err
    (whole / 'scontrol').write_text('#!/bin/sh\necho 127.0.0.1\n')
    (whole / 'scontrol').chmod(0o755)
    command = [
        sys.executable, ROOT / 'tools' / 'test.py', 'cohort.py',
        'run/epoch_3.pth', '--launcher', 'slurm', '--out', 'two.json'
    ]
    for code, _, err in ranks(slurm, 2, command, whole):
        assert code == 0, err
    for name in ('one.json', 'two.json'):
        found = json.loads((whole / name).read_text())
        for key in names:
            assert found[key] == pytest.approx(record['last'][key]), name


def test_compiled(whole, cohort):
    """Two processes of torchrun, against two that compile nothing."""
    found, = end(
        start([
            'bash', ROOT / 'tools' / 'dist_train.sh', 'cohort.py', 2,
            '--work-dir', 'run', '--cfg-options', 'compile.backend=eager',
            'model_wrapper_cfg.static_graph=True'
        ],
              cohort,
              PORT=port()))
    code, out, err = found
    assert code == 0, err
    assert 'The branches are compiled' in out
    assert_equal(
        weights(cohort / 'run'), weights(whole / 'run'), rtol=0, atol=0)


def test_two_nodes(whole, cohort):
    """Each of one process, on the loopback interface."""
    place = port()
    found = end(*(start(
        [
            *TORCHRUN, '--nnodes', 2, '--node_rank', node, '--nproc_per_node',
            1, '--master_addr', '127.0.0.1', '--master_port', place,
            ROOT / 'tools' / 'train.py', 'cohort.py', '--launcher', 'pytorch',
            '--work-dir', 'run'
        ], cohort) for node in range(2)))
    assert [code for code, *_ in found] == [0, 0], found[0][2] + found[1][2]
    assert_equal(weights(cohort / 'run'), weights(whole / 'run'))


def test_lost_worker(whole, cohort):
    """The run goes on, though nobody said --resume, and ends as unbroken."""
    (cohort / 'loss.py').write_text(LOSS)
    (cohort / 'lossy.py').write_text(
        "_base_ = ['cohort.py']\n"
        "custom_imports = dict(imports=['loss'])\n"
        "custom_hooks = [dict(type='mcod_plugin.DiscontinuousKDHook', "
        'weight=(1, 1)), '
        "dict(type='Loss')]\n")
    found, = end(
        start([
            *TORCHRUN, '--nproc_per_node', 2, '--max-restarts', 1,
            '--master_port',
            port(), ROOT / 'tools' / 'train.py', 'lossy.py', '--launcher',
            'pytorch', '--work-dir', 'run'
        ], cohort))
    code, out, err = found
    assert code == 0, err
    assert re.search(r'Auto resumed from .*epoch_1.pth', out)
    assert_equal(weights(cohort / 'run'), weights(whole / 'run'))


@pytest.mark.parametrize('tool, given, passed', [
    ('slurm_train.sh', ['cohort.py', '--resume'],
     'train.py cohort.py --launcher slurm --resume'),
    ('slurm_test.sh', ['cohort.py', 'epoch_1.pth', '--out', 'a.json'],
     'test.py cohort.py epoch_1.pth --launcher slurm --out a.json'),
])
@pytest.mark.parametrize('gpus, nodes', [
    ({}, ('gpu:8', '8', '8')),
    (dict(GPUS='16'), ('gpu:8', '16', '8')),
    (dict(GPUS='2'), ('gpu:2', '2', '2')),
])
def test_what_srun_is_told(tmp_path, tool, given, passed, gpus, nodes):
    (tmp_path / 'srun').write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / 'srun').chmod(0o755)
    command = ['bash', ROOT / 'tools' / tool, 'part', 'job', *given]
    (code, out, err), = end(
        start(command, tmp_path, SRUN_ARGS='--time=1 --qos=x', **gpus))
    assert code == 0 and not err
    assert out.startswith('-p part --job-name=job ')
    for name, value in zip(('gres', 'ntasks', 'ntasks-per-node'), nodes):
        assert f' --{name}={value} ' in out
    assert ' --kill-on-bad-exit=1 --time=1 --qos=x python -u ' in out
    assert out.rstrip().endswith(passed)


@pytest.mark.parametrize('tool, given, passed', [
    ('dist_train.sh', ['cohort.py', 4, '--resume'],
     'train.py cohort.py --launcher pytorch --resume'),
    ('dist_test.sh', ['cohort.py', 'epoch_1.pth', 4, '--out', 'a.json'],
     'test.py cohort.py epoch_1.pth --launcher pytorch --out a.json'),
])
@pytest.mark.parametrize('variables, told', [
    ({}, ('1', '0', '127.0.0.1', '29500')),
    (dict(NNODES='2', NODE_RANK='1', MASTER_ADDR='10.0.0.1', PORT='1'),
     ('2', '1', '10.0.0.1', '1')),
])
def test_what_torchrun_is_told(tmp_path, tool, given, passed, variables,
                               told):
    (tmp_path / 'torchrun').write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / 'torchrun').chmod(0o755)
    (code, out, err), = end(
        start(['bash', ROOT / 'tools' / tool, *given], tmp_path, **variables))
    assert code == 0 and not err
    names = ('nnodes', 'node_rank', 'master_addr', 'master_port')
    for name, value in zip(names, told):
        assert f'--{name}={value} ' in out
    assert ' --nproc_per_node=4 ' in out
    assert out.rstrip().endswith(passed)


def test_three_processes_go_on(whole, cohort):
    """As MPI starts them, from the checkpoint of two."""
    command = [
        sys.executable, ROOT / 'tools' / 'train.py', 'cohort.py', '--launcher',
        'mpi', '--work-dir', 'run', '--resume',
        whole / 'run' / 'epoch_2.pth', '--cfg-options',
        'train_dataloader.batch_size=8'
    ]
    for code, _, err in ranks(mpi, 3, command, cohort):
        assert code == 0, err
    record = json.loads((cohort / 'run' / 'record.json').read_text())
    assert record['batch_size'] == 24 and record['outcome'] == 'finished'
    settings, = record['changes']
    assert 'train_dataloader.batch_size' in json.dumps(settings)


FAULT = """\
from mmengine.dist import get_rank
from mcod_plugin.datasets import InMemoryDataset
from mcod_plugin.errors import ConfigError
from mcod_plugin.registry import DATASETS

@DATASETS.register_module()
class Missing(InMemoryDataset):

    def __init__(self, *args, ranks, **kwargs):
        if get_rank() in ranks:
            raise ConfigError('data: there is no such folder')
        super().__init__(*args, **kwargs)
"""


REASON = 'train_dataloader.dataset: data: there is no such folder'


@pytest.mark.parametrize('where, line', [
    ([1], f'error: rank 1: {REASON}'),
    ([0, 1], f'error: (rank 1: )?{REASON}'),
])
def test_reasons_are_told_once(cohort, where, line):
    (cohort / 'fault.py').write_text(FAULT)
    (cohort / 'faulty.py').write_text(
        "_base_ = ['cohort.py']\n"
        "custom_imports = dict(imports=['fault'])\n"
        'train_dataloader = dict(\n'
        f"    dataset=dict(type='mcod_plugin.Missing', ranks={where}))\n")
    begin = time.monotonic()
    found = ranks(
        mpi, 2, [
            sys.executable, ROOT / 'tools' / 'train.py', 'faulty.py',
            '--launcher', 'mpi'
        ], cohort)
    assert time.monotonic() - begin < 120
    errors = [text for _, _, err in found for text in err.split('\n')
              if text.startswith('error:')]
    assert len(errors) == 1 and re.fullmatch(line, errors[0]), found
    assert 'Traceback' not in ''.join(err for *_, err in found)
    assert [code for code, *_ in found] in ([1, 2], [2, 2])


CRASH = """\
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class Crash(Hook):

    def __init__(self, rank):
        self.rank = rank

    def after_train_iter(self, runner, **kwargs):
        if runner.iter == 2 and runner.rank == self.rank:
            raise LookupError('no such shelf')
"""


@pytest.mark.parametrize('launched, crashed', [
    ('pytorch', 1),
    # It keeps what the processes share.
    ('mpi', 0),
])
def test_what_ended_a_run_is_told_by_who_did(cohort, launched, crashed):
    """In the record and once on stderr, whatever the others see of it."""
    (cohort / 'crash.py').write_text(CRASH)
    (cohort / 'crashing.py').write_text(
        "_base_ = ['cohort.py']\n"
        "custom_imports = dict(imports=['crash'])\n"
        "custom_hooks = [dict(type='mcod_plugin.DiscontinuousKDHook', "
        'weight=(1, 1)), '
        f"dict(type='Crash', rank={crashed})]\n")
    command = [
        ROOT / 'tools' / 'train.py', 'crashing.py', '--launcher', launched,
        '--work-dir', 'run'
    ]
    begin = time.monotonic()
    if launched == 'mpi':
        found = ranks(mpi, 2, [sys.executable, *command], cohort)
        assert [code for code, *_ in found] == [1, 1]
        assert 'LookupError' in found[crashed][2]
        assert 'Traceback' not in found[1 - crashed][2]
    else:
        found = end(
            start([
                *TORCHRUN, '--nproc_per_node', 2, '--master_port',
                port(), *command
            ], cohort))
        assert found[0][0] == 1
    assert time.monotonic() - begin < 120
    errors = ''.join(err for *_, err in found)
    assert errors.count('LookupError: no such shelf') == 1, errors
    # The launcher's own traceback tells of exit codes.
    assert 'gloo' not in errors and 'stopped by' not in errors, errors
    record = json.loads((cohort / 'run' / 'record.json').read_text())
    whose = f'rank {crashed}: ' * (crashed != 0)
    assert record['outcome'] == f'failed: {whose}no such shelf'


@pytest.mark.parametrize('launcher, variables, words', [
    ('pytorch', {}, 'has no RANK; start the tool by torchrun'),
    ('slurm', {}, 'has no SLURM_PROCID; start the tool by srun'),
    ('mpi', {}, 'has no OMPI_COMM_WORLD_RANK; start the tool by mpirun'),
    ('slurm', slurm(0, 2), 'does not tell the first node; set MASTER_ADDR'),
    ('mpi', dict(mpi(0, 2), OMPI_COMM_WORLD_LOCAL_SIZE=1),
     'several nodes; set MASTER_ADDR'),
])
def test_launcher_that_tells_too_little(cohort, run_tool, launcher, variables,
                                        words):
    done = run_tool(
        'train',
        'cohort.py',
        '--launcher',
        launcher,
        cwd=cohort,
        env={key: str(value)
             for key, value in variables.items()})
    assert done.code == 2 and done.err.count('\n') == 1, done.err
    assert f'--launcher {launcher}' in done.err and words in done.err
