import glob
import os.path as osp
import re
import shutil
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook

import mcod_plugin
from mcod_plugin.engine.hooks.branch_checkpoint_hook import (
    OBSOLETE, BranchCheckpointHook)
from mcod_plugin.errors import ConfigError
from mcod_plugin.registry import RUNNERS
from mcod_plugin.utils.machine import describe_machine


def names(folder):
    return sorted(map(osp.basename, glob.glob(f'{folder}/*.pth')))


def test_best_of_every_branch_and_of_the_ensemble(tiny_runner):
    runner = tiny_runner(epochs=3)
    runner.train()
    found = [
        name.rpartition('_epoch_')[0] for name in names(runner.work_dir)
        if name.startswith('best')
    ]
    assert found == [
        'best_ensemble_top1', 'best_resnet_top1', 'best_vit_top1'
    ]
    for name in ('resnet', 'vit', 'ensemble'):
        history = runner.message_hub.get_scalar(f'val/{name}/top1').data[0]
        epoch = history.argmax() + 1
        assert f'best_{name}_top1_epoch_{epoch}.pth' in names(runner.work_dir)


def test_checkpoints_hold_data_only(tiny_runner):
    runner = tiny_runner()
    runner.train()
    files = glob.glob(f'{runner.work_dir}/*.pth')
    assert len(files) == 5
    for file in files:
        checkpoint = torch.load(file, weights_only=True)
        assert checkpoint['state_dict'].keys() == runner.model.state_dict(
        ).keys()
        meta = checkpoint['meta']
        assert meta['mcod_plugin_version'] == mcod_plugin.__version__
        machine = describe_machine()
        for key in ('commit', 'versions', 'device'):
            assert meta['machine'][key] == machine[key]
        assert meta['seed'] == 3 and meta['dataset_meta']['classes'][3] == '3'
    assert not glob.glob(f'{runner.work_dir}/*.part')


def test_message_hub_comes_back_as_it_was(tiny_runner):
    runner = tiny_runner('a')
    runner.train()
    resumed = tiny_runner('a', 3, resume=True)
    resumed.train()
    for key in ('train/loss', 'train/resnet.loss_ce', 'train/kd_weight'):
        before = runner.message_hub.get_scalar(key).data[0]
        after = resumed.message_hub.get_scalar(key).data[0]
        assert len(after) == 12
        assert (after[:8] == before).all()


@pytest.mark.parametrize('scheduler', [
    dict(type='OneCycleLR', eta_max=.1, total_steps=12),
    dict(type='OneCycleLR', eta_max=.1, total_steps=12, three_phase=True),
    dict(type='ReduceOnPlateauLR', monitor='ensemble/top1', rule='greater'),
])
def test_schedulers_go_on(tiny_runner, scheduler):
    """Some keep functions, which are no data."""
    by_epoch = scheduler['type'].startswith('Reduce')
    changes = dict(
        param_scheduler=[dict(scheduler, by_epoch=by_epoch, end=12)])

    class Rates(Hook):

        def __init__(self):
            self.found = []

        def after_train_iter(self, runner, *args, **kwargs):
            self.found.append(runner.optim_wrapper.get_lr()['lr'][0])

    def rates(*args, **kwargs):
        runner = tiny_runner(*args, **kwargs, **changes)
        hook = Rates()
        runner.register_hook(hook)
        runner.train()
        return hook.found

    expected = rates('unbroken', 3)
    rates('resumed', 1)
    assert rates('resumed', 3, resume=True) == expected[4:]


def test_objects_in_the_message_hub_do_not_end_a_run(tiny_runner, tmp_path):

    class Litter(Hook):

        def before_train(self, runner):
            runner.message_hub.update_info('litter', object())

    runner = tiny_runner()
    runner.register_hook(Litter())
    runner.train()
    checkpoint = torch.load(
        f'{runner.work_dir}/epoch_2.pth', weights_only=True)
    assert 'litter' not in checkpoint['message_hub']['runtime_info']
    assert '"litter" of the message hub' in next(
        tmp_path.rglob('*.log')).read_text()
    tiny_runner(epochs=3, resume=True).train()


@pytest.mark.parametrize('save_best, expected', [
    ('vit/top1', ['best_vit_top1']),
    (['ensemble/top1', 'vit/top1'], ['best_ensemble_top1', 'best_vit_top1']),
])
def test_explicit_choice_wins(tiny_runner, save_best, expected):
    runner = tiny_runner(**{'default_hooks.checkpoint.save_best': save_best})
    runner.train()
    found = [
        name.rpartition('_epoch_')[0] for name in names(runner.work_dir)
        if name.startswith('best')
    ]
    assert found == expected


@pytest.mark.parametrize('evaluator, expected, missing', [
    (dict(type='Accuracy'), [],
     ['ensemble/top1', 'resnet/top1', 'vit/top1']),
    (dict(type='mcod_plugin.BranchMetrics', topk=(5, )), [],
     ['ensemble/top1', 'resnet/top1', 'vit/top1']),
    (dict(type='Accuracy', prefix='ensemble'), ['best_ensemble_top1'],
     ['resnet/top1', 'vit/top1']),
])
def test_best_by_the_metrics_that_there_are(tiny_config, tmp_path, evaluator,
                                            expected, missing):
    cfg = tiny_config()
    cfg.val_evaluator = evaluator
    runner = RUNNERS.build(cfg)
    runner.train()
    found = names(runner.work_dir)
    assert 'epoch_2.pth' in found
    assert [
        name.rpartition('_epoch_')[0] for name in found
        if name.startswith('best')
    ] == expected
    log = next(tmp_path.rglob('*.log')).read_text()
    assert log.count(f'No best checkpoint by {", ".join(missing)}: ') == 1


def test_metric_that_was_asked_for_must_be_there(tiny_runner):
    """That of BranchMetrics alone is told to be missing before the first
    step; a hook may yet give it."""
    words = (r"save_best names '{}', which the validation does not give; it "
             r'gives ensemble/top1, resnet/top1, vit/top1, diversity')
    for name, others in (('vit/top5', []),
                         ('mAP', [dict(type='AveragePrecision')])):
        runner = tiny_runner(
            **{
                'default_hooks.checkpoint.save_best': name,
                'val_evaluator.metric': others
            })
        with pytest.raises(ConfigError, match=words.format(name)):
            runner.train()
        log, = Path(runner.work_dir).glob(f'{runner.timestamp}/*.log')
        before = log.read_text().partition('Epoch(train)')[0]
        assert bool(re.search(words.format(name), before)) == (not others)


def test_interrupted_save_leaves_the_old_checkpoint(tiny_runner, monkeypatch):
    runner = tiny_runner('a', 1)
    runner.train()
    file = osp.join(runner.work_dir, 'epoch_1.pth')
    with open(file, 'rb') as stream:
        before = stream.read()

    def fail(*args, **kwargs):
        raise OSError('disk full')

    monkeypatch.setattr(torch, 'save', fail)
    with pytest.raises(OSError, match='disk full'):
        runner.save_checkpoint(runner.work_dir, 'epoch_1.pth')
    with open(file, 'rb') as stream:
        assert stream.read() == before


def content(folder):
    """Name and bytes of each file."""
    return {
        path.name: path.read_bytes()
        for path in Path(folder).iterdir() if path.is_file()
    }


KEEP = {'default_hooks.checkpoint.max_keep_ckpts': 1}


class Stop(Hook):
    """Breaks a run off before its third epoch."""

    priority = 'VERY_HIGH'

    def before_train_epoch(self, runner):
        if runner.epoch == 2:
            raise KeyboardInterrupt


@pytest.fixture
def stopped(tiny_runner):
    """The work directory of a run that was stopped after two of three
    epochs."""
    runner = tiny_runner('a', 3, **KEEP)
    runner.register_hook(Stop())
    with pytest.raises(KeyboardInterrupt):
        runner.train()
    assert 'epoch_2.pth' in names(runner.work_dir)
    return Path(runner.work_dir)


@pytest.fixture
def whole(tiny_runner):
    """The names of the checkpoints of an unbroken run."""
    runner = tiny_runner('whole', 3, **KEEP)
    runner.train()
    # So that there is something to replace at the end.
    found = names(runner.work_dir)
    assert any(name.endswith('epoch_3.pth') and 'best' in name
               for name in found)
    return found


def test_moved_run_goes_on(tiny_runner, stopped, whole):
    moved = stopped.with_name('moved')
    stopped.rename(moved)
    runner = tiny_runner('moved', 3, resume=True, **KEEP)
    runner.train()
    assert names(moved) == whole and not stopped.exists()
    assert (moved / 'last_checkpoint').read_text() == str(
        moved / 'epoch_3.pth')


def test_copied_run_goes_on_by_itself(tiny_runner, stopped, whole):
    shutil.copytree(stopped, stopped.with_name('copy'))
    before = content(stopped)
    runner = tiny_runner('copy', 3, resume=True, **KEEP)
    runner.train()
    assert names(runner.work_dir) == whole
    assert content(stopped) == before
    log = ''.join(
        path.read_text() for path in Path(runner.work_dir).rglob('*.log'))
    assert f'latest checkpoint {runner.work_dir}/epoch_2.pth' in log


def test_run_from_the_checkpoint_of_another_folder(tiny_runner, stopped,
                                                   tmp_path):
    before = content(stopped)
    other = tmp_path / 'other'
    other.mkdir()
    # Of another run that was there.
    own = ['epoch_2.pth', 'best_vit_top1_epoch_1.pth', 'epoch_1.pth']
    for name in own:
        (other / name).touch()
    runner = tiny_runner(
        'other',
        3,
        resume=True,
        load_from=str(stopped / 'epoch_2.pth'),
        **KEEP)
    runner.train()
    assert content(stopped) == before
    assert {'epoch_3.pth', *own} <= set(names(other))
    best = runner.message_hub.get_info('best_score_ensemble/top1')
    assert best == max(
        torch.load(path, weights_only=True)['message_hub']['runtime_info']
        ['best_score_ensemble/top1'] for folder in (stopped, other)
        for path in folder.glob('best_ensemble*'))


@pytest.mark.parametrize('best', [False, True])
def test_failed_write_loses_nothing(tiny_runner, monkeypatch, best):
    """Nothing is removed before what replaces it is there."""
    save = torch.save

    def fail(checkpoint, *args, **kwargs):
        if checkpoint['meta']['epoch'] == 2 and best == ('optimizer'
                                                         not in checkpoint):
            raise OSError('disk full')
        save(checkpoint, *args, **kwargs)

    monkeypatch.setattr(torch, 'save', fail)
    runner = tiny_runner('a', 3, **KEEP)
    with pytest.raises(OSError, match='disk full'):
        runner.train()
    assert names(runner.work_dir) == [
        'best_ensemble_top1_epoch_1.pth', 'best_resnet_top1_epoch_1.pth',
        'best_vit_top1_epoch_1.pth', f'epoch_{2 if best else 1}.pth'
    ]
    assert not glob.glob(f'{runner.work_dir}/*.part')
    # What a run that was stopped tells to go on from.
    last, = (
        hook.last_ckpt for hook in runner.hooks
        if isinstance(hook, BranchCheckpointHook))
    assert osp.basename(last) == names(runner.work_dir)[-1]


@pytest.mark.parametrize('number', [1, 2])
def test_what_was_left_to_remove_is_removed(tiny_runner, monkeypatch, whole,
                                            number):
    """The run is killed when the last checkpoint tells what to remove."""
    runner = tiny_runner('a', 3, **KEEP)
    times = 0

    def die(hook):
        nonlocal times
        times += OBSOLETE in runner.message_hub.runtime_info
        if times == number:
            raise KeyboardInterrupt
        remove(hook)

    remove = BranchCheckpointHook._remove_obsolete
    with monkeypatch.context() as patch:
        patch.setattr(BranchCheckpointHook, '_remove_obsolete', die)
        with pytest.raises(KeyboardInterrupt):
            runner.train()
    assert len(names(runner.work_dir)) > len(whole)
    tiny_runner('a', 3, resume=True, **KEEP).train()
    assert names(runner.work_dir) == whole


def test_published_files_hold_what_was_asked_for(tiny_runner):
    runner = tiny_runner(
        **{'default_hooks.checkpoint.published_keys': ['state_dict']})
    runner.train()
    found = glob.glob(f'{runner.work_dir}/*-????????.pth')
    # The last one, and the best of two branches and of the ensemble.
    assert len(found) == 4
    for path in found:
        assert torch.load(path, weights_only=True).keys() == {'state_dict'}
