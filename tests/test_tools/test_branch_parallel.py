"""Branches of a cohort in several processes, against all in one."""
import json
import re
import sys
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from .conftest import ROOT, TINY
from .test_several_processes import TORCHRUN, end, mpi, port, ranks, start

pytestmark = pytest.mark.skipif(
    not dist.is_available() or not dist.is_gloo_available(),
    reason='needs gloo')

# A gate with batch norm that is trained in every step, a loss with a state,
# branches with limits, a rate, an optimizer and phases of their own, one whose
# activations are computed twice, a view for each, mixed, and steps of several
# batches.
COHORT = """\
_base_ = ['tiny.py']
model = dict(
    branches=dict(
        small=dict(
            backbone=dict(type='mcod_plugin.CifarResNet', depth=8, width=2),
            head=dict(type='LinearClsHead', num_classes=10),
            lr_mult=0.5,
            recompute=True,
            clip_grad=dict(max_norm=1.0)),
        dense=dict(
            backbone=dict(type='mcod_plugin.CifarDenseNet', depth=10,
                          growth=4),
            head=dict(type='LinearClsHead', num_classes=10)),
        vgg=dict(optimizer=dict(type='SGD', lr=0.05, momentum=0.9))),
    teacher=dict(_delete_=True, type='mcod_plugin.GatedTeacher', norm=True),
    distill=dict(_delete_=True, type='mcod_plugin.BalancedKDLoss'),
    train_cfg=dict(augments=dict(type='Mixup', alpha=0.4)))
train_dataloader = dict(batch_size=12, dataset=dict(indices=36, views=True))
optim_wrapper = dict(accumulative_counts=3)
auto_scale_lr = dict(base_batch_size=24, enable=True)
val_dataloader = dict(batch_size=13, dataset=dict(indices=41))
test_dataloader = val_dataloader
val_evaluator = dict(metric=dict(type='SingleLabelMetric'))
test_evaluator = val_evaluator
default_hooks = dict(
    logger=dict(interval=1),
    checkpoint=dict(save_best=None, max_keep_ckpts=-1))
custom_hooks = [
    dict(type='mcod_plugin.DiscontinuousKDHook', branches=['resnet', 'dense'],
         on=1, gap=(1, 1), weight=(1.0, 1.0)),
    dict(type='mcod_plugin.DiscontinuousKDHook', branches=['vgg', 'small'],
         begin=2, weight=(0.5, 0.5))
]
train_cfg = dict(max_epochs=3)
"""
BY_ITERATION = """\
train_cfg = dict(_delete_=True, by_epoch=False, max_iters=6, val_interval=6)
train_dataloader['sampler'] = dict(type='InfiniteSampler')
default_hooks['checkpoint'].update(by_epoch=False, interval=6)
custom_hooks = [dict(
    type='mcod_plugin.DiscontinuousKDHook', by_epoch=False, on=2, gap=(1, 1),
    weight=(1.0, 1.0))]
param_scheduler = []
"""
# What a record has that differs from run to run.
OTHER = {
    'config', 'changes', 'date', 'dirty', 'train_seconds', 'seconds',
    'peak_memory_bytes'
}


def train(folder, number, *args):
    """What several processes of torchrun print."""
    (code, out, err), = end(
        start([
            *TORCHRUN, '--nproc_per_node', number, '--master_port',
            port(), ROOT / 'tools' / 'train.py', *args, '--launcher', 'pytorch'
        ], folder))
    assert code == 0, err
    return out


def read(work_dir, name='epoch_3'):
    checkpoint = torch.load(work_dir / f'{name}.pth', weights_only=True)
    record = json.loads((work_dir / 'record.json').read_text())
    return checkpoint, record


def assert_equal(ours, theirs, **tolerances):
    torch.testing.assert_close(
        ours, theirs, equal_nan=True, **(tolerances or dict(rtol=0, atol=0)))


def by_name(checkpoint):
    """The settings and the state of each parameter."""
    optimizer = checkpoint['optimizer']
    return {
        name: ({
            key: value
            for key, value in group.items()
            if key not in ('params', 'param_names')
        }, optimizer['state'][number])
        for group in optimizer['param_groups']
        for name, number in zip(group['param_names'], group['params'])
    }


def assert_same_run(ours, theirs):
    """Checkpoints and records are equal in all that a run has come to."""
    (checkpoint, record), (other, other_record) = ours, theirs
    assert list(checkpoint['state_dict']) == list(other['state_dict'])
    assert_equal(checkpoint['state_dict'], other['state_dict'])
    assert by_name(checkpoint).keys() == by_name(other).keys()
    for name, (settings, state) in by_name(checkpoint).items():
        assert settings == by_name(other)[name][0], name
        assert_equal(state, by_name(other)[name][1])
    scalars, others = ({
        key: value
        for key, value in part['message_hub']['log_scalars'].items()
        if 'time' not in key and not key.endswith('base_lr')
    } for part in (checkpoint, other))
    assert scalars.keys() == others.keys()
    assert 'train/dense.loss_ce' in scalars and 'train/vgg.loss_kd' in scalars
    for key, value in scalars.items():
        assert_equal(value['log_history'], others[key]['log_history'])
    assert record.keys() == other_record.keys()
    for key in record.keys() - OTHER:
        assert json.dumps(record[key]) == json.dumps(other_record[key]), key


@pytest.fixture(scope='module')
def alone(run_tool, tmp_path_factory):
    """A run of one process."""
    folder = tmp_path_factory.mktemp('alone')
    (folder / 'tiny.py').write_text(TINY)
    (folder / 'cohort.py').write_text(COHORT)
    for number in (2, 3):
        (folder / f'by_{number}.py').write_text(
            "_base_ = ['cohort.py']\n"
            f'parallel = dict(branch={number})\n')
    done = run_tool('train', 'cohort.py', '--work-dir', 'one', cwd=folder)
    assert done.code == 0, done.err
    return SimpleNamespace(folder=folder, found=read(folder / 'one'))


def test_three_processes(alone, run_tool):
    """They come to what one process does, bit by bit; the file tells no
    difference."""
    out = train(alone.folder, 3, 'by_3.py', '--work-dir', 'three')
    found = read(alone.folder / 'three')
    assert_same_run(found, alone.found)
    record = found[1]
    assert record['batch_size'] == 12 and record['outcome'] == 'finished'
    assert record['branches'] == ['resnet', 'vgg', 'small', 'dense']
    # Each line is told once, that of checkpoints in the log file.
    assert out.count('Result after 3 epochs') == 1
    log = '\n'.join(path.read_text()
                    for path in (alone.folder / 'three').glob('*/*.log'))
    assert log.count('Saving checkpoint at 3 epochs') == 1
    assert re.search(r'process.*branches.*share of the work', out)
    assert 'times as fast as in one process' in out
    names = set()
    for row in re.findall(r'│ \d +│ +([\w, ]+) │ +\d+% │', out):
        names.update(row.split(', '))
    assert names == {'resnet', 'vgg', 'small', 'dense'}
    # The metrics of 41 images in batches of 13, and of the file that is left.
    done = run_tool(
        'test',
        'by_3.py',
        'three/epoch_3.pth',
        '--out',
        'metrics.json',
        cwd=alone.folder)
    assert done.code == 0, done.err
    metrics = json.loads((alone.folder / 'metrics.json').read_text())
    for key, value in record['last'].items():
        assert metrics[key] == pytest.approx(value), key


def test_resumed_by_two_and_by_one(alone, run_tool):
    """A run that goes on in other processes ends as the unbroken one."""
    train(alone.folder, 2, 'by_2.py', '--work-dir', 'two', '--resume',
          'one/epoch_1.pth')
    assert_same_run(read(alone.folder / 'two'), alone.found)
    done = run_tool(
        'train',
        'cohort.py',
        '--work-dir',
        'back',
        '--resume',
        'two/epoch_2.pth',
        cwd=alone.folder)
    assert done.code == 0, done.err
    assert_same_run(read(alone.folder / 'back'), alone.found)


@pytest.fixture
def mesh(tmp_path):
    (tmp_path / 'tiny.py').write_text(TINY)
    (tmp_path / 'cohort.py').write_text(COHORT + BY_ITERATION)
    (tmp_path / 'mesh.py').write_text("_base_ = ['cohort.py']\n"
                                      'parallel = dict(branch=2)\n')
    return tmp_path


def test_two_by_two(mesh, run_tool):
    """Two that see other images, each with two that share the branches, come
    to what two of DistributedDataParallel do."""
    train(mesh, 2, 'cohort.py', '--work-dir', 'ddp')
    train(mesh, 4, 'mesh.py', '--work-dir', 'mesh')
    (whole, whole_record), (found, record) = (
        read(mesh / name, 'iter_6') for name in ('ddp', 'mesh'))
    assert list(found['state_dict']) == list(whole['state_dict'])
    assert_equal(
        found['state_dict'], whole['state_dict'], rtol=1e-4, atol=1e-5)
    for key in ('batch_size', 'iterations', 'until', 'kd_weight', 'seed'):
        assert record[key] == whole_record[key], key
    assert record['batch_size'] == 24
    for key, value in whole_record['train_loss'].items():
        assert record['train_loss'][key] == pytest.approx(value, rel=1e-4)
    # It has validated what it has saved, each of 41 images once.
    done = run_tool(
        'test',
        'cohort.py',
        'mesh/iter_6.pth',
        '--out',
        'metrics.json',
        cwd=mesh)
    assert done.code == 0, done.err
    metrics = json.loads((mesh / 'metrics.json').read_text())
    assert record['last'].keys() == whole_record['last'].keys()
    for key, value in record['last'].items():
        assert metrics[key] == pytest.approx(value), key


def test_divergence_in_another_process(alone):
    """It is told once, and which branch it is."""
    found = ranks(mpi, 2, [
        sys.executable, ROOT / 'tools' / 'train.py', 'by_2.py', '--launcher',
        'mpi', '--work-dir', 'high', '--cfg-options',
        'model.branches.vgg.lr_mult=1e30'
    ], alone.folder)
    assert [code for code, *_ in found] == [1, 1]
    errors = [
        line for _, _, err in found for line in err.split('\n')
        if line.startswith('error:')
    ]
    assert len(errors) == 1, found
    assert re.search(
        r'training has diverged in epoch .*the loss of vgg is \w+ at '
        r'learning rate \d\S*e\+2\d', errors[0])


def test_one_process_is_too_few(alone, run_tool):
    done = run_tool('train', 'by_2.py', '--work-dir', 'few', cwd=alone.folder)
    assert done.code == 2 and done.err.count('\n') == 1, done.err
    assert ('error: parallel.branch=2 needs a multiple of 2 processes; there '
            'are 1') in done.err
    assert not (alone.folder / 'few').exists()


def test_two_processes_do_not_make_three(alone):
    found = ranks(mpi, 2, [
        sys.executable, ROOT / 'tools' / 'train.py', 'by_3.py', '--launcher',
        'mpi', '--work-dir', 'odd'
    ], alone.folder)
    errors = [
        line for _, _, err in found for line in err.split('\n')
        if line.startswith('error:')
    ]
    assert len(errors) == 1, found
    assert 'parallel.branch=3 needs a multiple of 3' in errors[0]
    assert not (alone.folder / 'odd').exists()
