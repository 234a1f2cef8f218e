import json
import shutil

import pytest

from mcod_plugin.errors import ConfigError
from mcod_plugin.publish.run import read_curves, read_run


def log(work_dir, name, entries, tail=''):
    folder = work_dir / name / 'vis_data'
    folder.mkdir(parents=True)
    (folder / 'scalars.json').write_text(''.join(
        json.dumps(entry) + '\n' for entry in entries) + tail)


def test_what_a_run_has_left(runs):
    run = read_run('WORK_DIR', str(runs.cohort))
    assert (run.done, run.planned, run.unit, run.seed) == (3, 3, 'epoch', 0)
    assert run.checkpoint.endswith('epoch_3.pth') and run.distils
    assert [row['step'] for row in run.curves] == [1, 2, 3]
    for row in run.curves:
        assert 0 <= row['ensemble/top1'] <= 100 and row['resnet.loss_ce'] > 0
    assert [weight for _, weight in run.schedule().table()
            ] == pytest.approx([0.1, 0, 0])
    assert set(run.logged_versions) == {'pytorch', 'torchvision'}
    assert not read_run('--solo', str(runs.solo)).distils


def test_methods_are_told_apart(runs):
    run = read_run('WORK_DIR', str(runs.cohort))
    assert run.is_mcod and 'MCOD-style' in run.method
    run.cfg.model.teacher.type = 'mcod_plugin.PeerTeacher'
    assert not run.is_mcod
    assert run.method == 'together by online distillation with PeerTeacher'
    solo = read_run('--solo', str(runs.solo))
    assert not solo.is_mcod and 'never distilled' in solo.method


def test_weights_to_start_from(runs):
    run = read_run('WORK_DIR', str(runs.cohort))
    assert run.pretrained == []
    run.cfg.model.branches.vgg.backbone.init_cfg = dict(
        type='Pretrained', checkpoint='vgg.pth')
    assert run.pretrained == ['vgg']


def test_schedule_in_iterations(runs):
    run = read_run('WORK_DIR', str(runs.cohort))
    run.cfg.custom_hooks[0].by_epoch = False
    assert len(run.schedule().table()) == 3 * 256 // 32


def test_a_resumed_run(tmp_path):
    log(tmp_path, '20260101_000000', [{
        'epoch': 1,
        'step': 5,
        'a.loss_ce': 3.
    }, {
        'step': 1,
        'a/top1': 10.
    }, {
        'epoch': 2,
        'step': 9,
        'a.loss_ce': 2.
    }], '{"epoch": 2, "st')
    log(tmp_path, '20260102_000000', [{
        'epoch': 2,
        'step': 10,
        'a.loss_ce': 1.
    }, {
        'step': 2,
        'a/top1': 20.
    }])
    found = [[row.get(key) for key in ('step', 'a.loss_ce', 'a/top1')]
             for row in read_curves(str(tmp_path))]
    assert found == [[1, 3., 10.], [2, 1., 20.]]


def test_a_run_by_iterations(tmp_path):
    log(tmp_path, '20260101_000000', [{
        'epoch': 1,
        'step': 5,
        'a.loss_ce': 3.
    }, {
        'step': 10,
        'a/top1': 10.
    }])
    steps = [row['step'] for row in read_curves(str(tmp_path), False)]
    assert steps == [5, 10]


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
