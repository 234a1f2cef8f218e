import os
import shutil

import pytest
import torch

from mcod_plugin.config.methods import METHODS, apply_method, find_method
from mcod_plugin.errors import ConfigError
from mcod_plugin.publish.trained_run import read_run
from mcod_plugin.schedule import DiscontinuousSchedule
from .conftest import train


def test_what_a_run_has_left(runs):
    run = read_run('WORK_DIR', str(runs.cohort))
    assert (run.done, run.planned, run.unit, run.seed) == (3, 3, 'epoch', 0)
    assert run.checkpoint.endswith('epoch_3.pth') and run.distils
    assert run.record['curves']['epoch'] == [1, 2, 3]
    assert len(run.record['curves']['ensemble/top1']) == 3
    assert min(run.record['train_loss']['resnet']) > 0
    assert run.weights == ([1, 2, 3], [1, 0, 1])
    assert not read_run('--solo', str(runs.solo)).distils


def test_empty_config_beside(runs, tmp_path):
    """MMPretrain's tool for the learning rate leaves one."""
    shutil.copytree(runs.cohort, tmp_path / 'work')
    (tmp_path / 'work' / '20200101_000000.py').write_text('\n')
    run = read_run('WORK_DIR', str(tmp_path / 'work'))
    assert 'resnet' in run.branches
    (tmp_path / 'work' / 'other.py').write_text('a = 1\n')
    with pytest.raises(ConfigError, match='one config, .*; found other.py, '):
        read_run('WORK_DIR', str(tmp_path / 'work'))


def distil(run):
    """Have a run be distilled as its config says."""
    settings = [
        dict(hook) for hook in run.cfg.custom_hooks
        if 'KDHook' in hook['type']
    ]
    schedules = [
        DiscontinuousSchedule(**{
            key: value
            for key, value in hook.items()
            if key not in ('type', 'branches', 'by_epoch')
        }).resolve(3) for hook in settings
    ]
    weights = [max(s.weight(t) for s in schedules) for t in range(3)]
    if run.cfg.model.get('distill', '') is None:
        weights = [0.] * 3
    run.content.pop('run_record', None)
    run.record = dict(kd_weight=weights)


MCOD_STYLE = ('mcod', 'mcod_constant', 'prob_mean', 'confidence', 'ramp',
              'on_off', 'slow_start')


@pytest.mark.parametrize('file', sorted(os.listdir(METHODS)))
def test_methods_are_told_apart(runs, file):
    name = file.removesuffix('.py')
    run = read_run('WORK_DIR', str(runs.cohort))
    apply_method(run.cfg, find_method(name))
    distil(run)
    if name == 'kd':
        run.cfg.model.teacher.members = 'vgg'
        run.cfg.model.branches.vgg.frozen = True
    assert run.is_mcod == (name in MCOD_STYLE)
    assert ('MCOD' in run.method) == run.is_mcod
    assert ('never distilled' in run.method) == (name == 'solo')
    assert ('distilled from the frozen vgg' in run.method) == (name == 'kd')
    if name == 'dml':
        assert run.method == 'together by online distillation with PeerTeacher'


@pytest.mark.parametrize('changes', [
    {
        'model.branches.vgg.frozen': True
    },
    {
        'model.teacher.members': ['resnet']
    },
    {
        'model.teacher.weights': dict(vgg=0)
    },
    {
        'model.teacher.ema': 0.999
    },
    {
        'model.teacher.type': 'mine.EnsembleTeacher'
    },
    {
        'model.distill.type': 'mcod_plugin.MutualKDLoss'
    },
])
def test_what_is_not_mcod(runs, changes):
    run = read_run('WORK_DIR', str(runs.cohort))
    assert run.is_mcod
    run.cfg.merge_from_dict(changes)
    assert not run.is_mcod
    assert run.method == 'together by online distillation with EnsembleTeacher'


def test_file_that_is_no_text(runs, tmp_path):
    """It may be the config, as any other one may."""
    shutil.copytree(runs.cohort, tmp_path / 'run')
    (tmp_path / 'run' / 'other.py').write_bytes(b'\xff')
    with pytest.raises(ConfigError, match='must hold one config.* other.py'):
        read_run('WORK_DIR', str(tmp_path / 'run'))
    (tmp_path / 'run' / 'tiny.py').unlink()
    with pytest.raises(ConfigError, match='config .*other.py: .*utf-8'):
        read_run('WORK_DIR', str(tmp_path / 'run'))


def test_one_branch_has_nothing_to_learn_from(runs):
    run = read_run('WORK_DIR', str(runs.cohort))
    del run.cfg.model.branches['vgg']
    assert not run.distils and not run.is_mcod
    assert run.method == 'alone, never distilled'
    run.cfg.model.teacher.ema = 0.999
    assert run.distils and not run.is_mcod
    assert run.method == 'alone, distilled from its own moving average'


def test_defaults_are_mcod(runs):
    run = read_run('WORK_DIR', str(runs.cohort))
    run.cfg.model.teacher = None
    del run.cfg.model['distill']
    assert run.is_mcod


@pytest.mark.parametrize('record, distils, is_mcod', [
    (dict(kd_weight=[0., 1., 1.]), True, True),
    (dict(kd_weight=[1., 1., 1.]), True, False),
    (dict(kd_weight=[0., 0., 0.]), False, False),
    # after the checkpoint
    (dict(kd_weight=[0., 0., 0., 1.]), False, False),
    ({
        'kd_weight': [0., 1., 1.],
        'vgg.kd_weight': [0., 1., 1.]
    }, True, False),
])
def test_what_took_effect_counts(runs, record, distils, is_mcod):
    """Whatever hooks the config names."""
    run = read_run('WORK_DIR', str(runs.cohort))
    run.content.pop('run_record')
    run.record = record
    assert (run.distils, run.is_mcod) == (distils, is_mcod)


def test_without_a_record_the_checkpoint_tells(runs, tmp_path):
    for name in ('tiny.py', 'epoch_3.pth', 'last_checkpoint'):
        shutil.copy(runs.cohort / name, tmp_path)
    run = read_run('WORK_DIR', str(tmp_path))
    assert run.weights == ([1, 2, 3], [1, 0, 1])
    assert run.record['train_loss'] == read_run(
        'WORK_DIR', str(runs.cohort)).record['train_loss']
    checkpoint = torch.load(tmp_path / 'epoch_3.pth', weights_only=True)
    del checkpoint['run_record']
    torch.save(checkpoint, tmp_path / 'epoch_3.pth')
    with pytest.raises(ConfigError, match='^--solo .* it lacks record.json, '):
        read_run('--solo', str(tmp_path))


PRETRAINED = dict(type='Pretrained', checkpoint='a.pth')


@pytest.mark.parametrize('changes, names', [
    ({}, []),
    ({
        'model.branches.vgg.backbone.init_cfg': PRETRAINED
    }, ['vgg']),
    ({
        'model.branches.vgg.backbone.pretrained': True
    }, ['vgg']),
    ({
        'model.branches.vgg.backbone.pretrained': False
    }, []),
    ({
        'model.init_cfg': PRETRAINED
    }, ['resnet', 'vgg']),
    ({
        'load_from': 'a.pth'
    }, ['resnet', 'vgg']),
    ({
        'load_from': 'epoch_2.pth',
        'resume': True
    }, []),
])
def test_weights_to_start_from(runs, changes, names):
    run = read_run('WORK_DIR', str(runs.cohort))
    run.cfg.merge_from_dict(changes)
    assert run.pretrained == names


def test_weights_to_start_from_of_a_resumed_run(runs, tmp_path):
    start = str(runs.cohort / 'epoch_3.pth')
    other = tmp_path / 'other'
    other.mkdir()
    train(other, load_from=start, **{'train_cfg.max_epochs': 1})
    folder = train(other, resume=True, **{'train_cfg.max_epochs': 2})
    run = read_run('WORK_DIR', str(folder))
    assert run.done == 2 and run.cfg.resume
    assert run.pretrained == ['resnet', 'vgg']


ACCURACY = dict(type='Accuracy')


@pytest.mark.parametrize('given, metrics', [
    (None, []),
    (ACCURACY, [ACCURACY]),
    ([ACCURACY], [ACCURACY]),
    (dict(type='Evaluator', metrics=ACCURACY), [ACCURACY]),
    (dict(metrics=[ACCURACY]), [ACCURACY]),
])
def test_metrics_of_the_test(runs, given, metrics):
    run = read_run('WORK_DIR', str(runs.cohort))
    run.cfg.test_evaluator = given
    assert run.test_metrics == metrics


def test_no_such_folder(tmp_path):
    with pytest.raises(ConfigError, match='WORK_DIR .*there is no such'):
        read_run('WORK_DIR', str(tmp_path / 'none'))


def test_faulty_folders(runs, tmp_path):
    work_dir = tmp_path / 'work'
    work_dir.mkdir()
    with pytest.raises(ConfigError, match='one config.*found none'):
        read_run('WORK_DIR', str(work_dir))
    shutil.copy(runs.cohort / 'tiny.py', work_dir)
    with pytest.raises(ConfigError, match='holds no checkpoint'):
        read_run('WORK_DIR', str(work_dir))
    shutil.copy(runs.cohort / 'tiny.py', work_dir / 'more.py')
    with pytest.raises(ConfigError, match='found more.py, tiny.py'):
        read_run('WORK_DIR', str(work_dir))
    (work_dir / 'more.py').unlink()
    (work_dir / 'tiny.py').write_text('model = dict(type="A")')
    with pytest.raises(ConfigError, match='model.branches is missing'):
        read_run('WORK_DIR', str(work_dir))


def test_a_folder_that_was_moved(runs, tmp_path):
    moved = tmp_path / 'mo[v]ed'
    moved.mkdir()
    for name in ('tiny.py', 'last_checkpoint', 'epoch_3.pth'):
        shutil.copy(runs.cohort / name, moved)
    assert read_run('WORK_DIR',
                    str(moved)).checkpoint == str(moved / 'epoch_3.pth')
