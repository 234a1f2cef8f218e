"""Runs that diverge, on their own and in two processes."""
import copy
import json
import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.hooks import Hook
from torch import nn

from mcod_plugin.engine.hooks import (cohort_runtime_info_hook,
                                      divergence_watch)
from mcod_plugin.engine.hooks.divergence_watch import broken_parts
from mcod_plugin.errors import ConfigError, TrainingError
from mcod_plugin.registry import RUNNERS
from mcod_plugin.runs.metrics import best_top1

# Nothing is logged before the end of an epoch.
QUIET = {'default_hooks.logger.interval': 50}
# The first epoch has a weight of 0.5 and the second none.
KD = dict(type='mcod_plugin.DiscontinuousKDHook', gap=(1, 1), weight=(.5, .5))


def by_iteration(interval=2):
    return {
        'train_cfg':
        dict(by_epoch=False, max_iters=8, val_interval=4, _delete_=True),
        'custom_hooks': [
            dict(type='mcod_plugin.DiscontinuousKDHook', by_epoch=False),
        ],
        'default_hooks.checkpoint.by_epoch': False,
        'default_hooks.checkpoint.interval': interval
    }


class Break(Hook):
    """Makes weights of a branch NaN before a step, or after it."""

    def __init__(self, name, step, after=False):
        self.name, self.step = name, step
        setattr(self, f'{"after" if after else "before"}_train_iter',
                self.change)

    # before the losses are handed over
    priority = 'HIGHEST'

    def change(self, runner, **kwargs):
        if runner.iter == self.step:
            branch = runner.model.branches[self.name]
            next(branch.parameters()).data.fill_(math.nan)


def run(tiny_runner, *hooks, **kwargs):
    runner = tiny_runner(**kwargs)
    for hook in hooks:
        runner.register_hook(hook)
    return runner


def refusal(runner):
    with pytest.raises(TrainingError) as info:
        runner.train()
    assert '\n' not in str(info.value)
    return str(info.value)


def saved(runner):
    return {path.name for path in Path(runner.work_dir).glob('*.pth')}


def newest(runner):
    path = (Path(runner.work_dir) / 'last_checkpoint').read_text()
    return torch.load(path.strip(), weights_only=True)


def log(runner):
    return next(Path(runner.work_dir).rglob('*.log')).read_text()


@pytest.mark.parametrize('step, after, told', [
    (5, False, 'epoch 2, iteration 6: the loss of vit is nan at learning '
     'rate 0.0213388'),
    (6, True, 'epoch 2, iteration 8: the loss of vit is nan at learning rate '
     '0.0213388'),
    (7, True, 'epoch 2, iteration 8: the weights of vit are not finite at '
     'learning rate 0.0213388'),
])
def test_stop(tiny_runner, step, after, told):
    """The checkpoint of the epoch before stays the newest."""
    runner = run(
        tiny_runner,
        Break('vit', step, after),
        epochs=3,
        **QUIET,
        **{'model.branches.vit.lr_mult': .5})
    text = refusal(runner)
    assert text.startswith(f'training has diverged in {told}; ')
    assert "on_divergence='drop'" in text
    assert text in log(runner)
    assert 'epoch_1.pth' in saved(runner)
    assert not any('epoch_2' in name for name in saved(runner))
    for value in newest(runner)['state_dict'].values():
        assert value.isfinite().all()
    assert newest(runner)['meta']['epoch'] == 1


def test_stop_at_the_cause(tiny_runner):
    """In an on-phase the losses of all are NaN at once."""
    runner = run(tiny_runner, Break('vit', 2), epochs=1, custom_hooks=[KD])
    text = refusal(runner)
    assert 'iteration 3: the loss of vit is nan at' in text
    assert 'resnet' not in text


def test_stop_where_all_diverge(tiny_runner):

    class Pixel(Hook):

        def before_train_iter(self, runner, batch_idx, data_batch):
            if batch_idx == 1:
                data_batch['inputs'] = data_batch['inputs'].float()
                data_batch['inputs'][3, 0, 2, 2] = math.nan

    for on_divergence in ('stop', 'drop'):
        text = refusal(
            run(tiny_runner,
                Pixel(),
                work_dir=on_divergence,
                on_divergence=on_divergence))
        assert 'epoch 1, iteration 2: the loss of resnet is nan' in text
        assert 'the loss of vit is nan' in text
        assert 'look for NaN in the images' in text


@pytest.mark.parametrize('step, after, told, kept', [
    (2, False, 'iteration 3: the loss of vit is nan', 'iter_2.pth'),
    (3, True, 'iteration 4: the weights of vit are', 'iter_2.pth'),
    (4, False, 'iteration 5: the loss of vit is nan', 'iter_4.pth'),
])
def test_iterations(tiny_runner, step, after, told, kept):
    runner = run(
        tiny_runner, Break('vit', step, after), **QUIET, **by_iteration())
    assert told in refusal(runner)
    names = {name for name in saved(runner) if name.startswith('iter_')}
    assert sorted(names)[-1] == kept
    assert any(name.startswith('best_')
               for name in saved(runner)) == (kept == 'iter_4.pth')
    assert all(value.isfinite().all()
               for value in newest(runner)['state_dict'].values())


def test_best_where_nothing_else_is_saved(tiny_runner):
    """The validation is between two checkpoints."""
    runner = run(
        tiny_runner, Break('vit', 3, True), **QUIET, **by_iteration(100))
    assert 'iteration 4: the weights of vit are' in refusal(runner)
    assert saved(runner) == set()


def test_checkpoint_of_another_hook(tiny_runner):

    class Save(Hook):

        def after_train_iter(self, runner, batch_idx, **kwargs):
            if batch_idx == 1:
                runner.save_checkpoint(runner.work_dir, 'mine.pth')

    runner = run(tiny_runner, Break('vit', 1), Save(), **QUIET)
    assert 'iteration 2: the loss of vit' in refusal(runner)
    assert not any(name.startswith('mine') for name in saved(runner)
                   if not name.endswith('.part'))


@pytest.mark.parametrize('after, told', [
    (False, 'the loss of vit is nan'),
    (True, 'the weights of vit are not finite'),
])
def test_checkpoint_in_the_midst_of_a_step(tiny_runner, after, told):
    """What comes of the step is looked at, all the same."""

    class Save(Hook):

        def before_train_iter(self, runner, batch_idx, **kwargs):
            if batch_idx == 3:
                runner.save_checkpoint(runner.work_dir, 'mine.pth')

    broken = Break('vit', 3, after)
    if not after:
        broken.priority = 'LOWEST'
    runner = run(tiny_runner, Save(), broken, **QUIET, **by_iteration())
    assert f'iteration 4: {told}' in refusal(runner)
    assert 'iter_4.pth' not in saved(runner)


def test_default_hooks(tiny_config):
    """Nobody has to ask for it."""
    cfg = tiny_config()
    del cfg.default_hooks['runtime_info']
    runner = RUNNERS.build(cfg)
    runner.register_hook(Break('vit', 1))
    assert 'iteration 2: the loss of vit' in refusal(runner)


@pytest.mark.parametrize('changes, message', [
    ({
        'on_divergence': 'halt'
    }, "on_divergence must be one of drop, stop; got 'halt'"),
    ({
        'on_divergence': 'drop',
        'default_hooks.runtime_info.type': 'RuntimeInfoHook'
    }, "on_divergence='drop' needs default_hooks.runtime_info"),
    ({
        'on_divergence': 'drop',
        'model': dict(
            type='ImageClassifier',
            backbone=dict(
                type='mcod_plugin.CifarResNet', depth=8, width=4),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(
                type='LinearClsHead', in_channels=16, num_classes=10),
            _delete_=True)
    }, "on_divergence='drop' needs a cohort"),
])
def test_bad_setting(tiny_runner, changes, message):
    with pytest.raises(ConfigError) as info:
        tiny_runner(**changes)
    assert str(info.value).startswith(message)


# Going on without a branch


RECORD = dict(type='mcod_plugin.RunRecordHook')
# One by its norm over all, which one NaN would make NaN.
CLIP = {'optim_wrapper.clip_grad': dict(max_norm=1.)}


def drop(tiny_runner, *hooks, epochs=3, **changes):
    return run(
        tiny_runner,
        *hooks,
        epochs=epochs,
        on_divergence='drop',
        custom_hooks=[KD, RECORD],
        **CLIP,
        **changes)


def test_drop(tiny_runner):
    runner = drop(tiny_runner, Break('vit', 5))
    runner.train()
    assert ('vit is left out from now on: epoch 2, iteration 6: the loss of '
            'vit is nan at learning rate 0.0426777') in log(runner)
    for key, value in runner.model.state_dict().items():
        assert key.startswith('branches.vit.') or value.isfinite().all(), key
    # The curve of each before, and that of the others after.
    hub = runner.message_hub
    losses = hub.get_scalar('train/vit.loss_ce').data[0]
    assert [math.isfinite(value) for value in losses] == [True] * 5 + [
        False
    ] * 7
    for key in ('train/loss', 'train/resnet.loss_ce', 'train/grad_norm'):
        assert all(map(math.isfinite, hub.get_scalar(key).data[0])), key
    record = json.loads((Path(runner.work_dir) / 'record.json').read_text())
    assert record['diverged'] == dict(
        vit=dict(
            epoch=2,
            iteration=6,
            lr=pytest.approx(0.0426777, rel=1e-5)))
    assert [math.isnan(loss) for loss in record['train_loss']['vit']
            ] == [False, True, True]
    assert not any(map(math.isnan, record['train_loss']['resnet']))
    assert math.isnan(record['last']['vit/top1'])
    # It is known from the next value that is logged on.
    own, rest = (record[f'{name}.kd_weight'] for name in ('vit', 'resnet'))
    assert own[0] == rest[0] and own[2] == 0 < rest[2]
    # The ensemble is that of the others.
    assert record['last']['ensemble/top1'] == record['last']['resnet/top1']
    assert best_top1(record['curves'])['vit'][1] == 1
    assert 'best_vit_top1_epoch_1.pth' in saved(runner)
    table = log(runner).partition('Result after')[2]
    assert [line for line in table.split('\n')
            if ' vit ' in line and 'diverged' in line]
    assert 'disagree' not in table
    assert not any('alive' in key for key in newest(runner)['state_dict'])


def test_drop_with_averages(tiny_runner):
    """The average has the statistics of its branch, which are NaN."""
    teacher = dict(type='mcod_plugin.EnsembleTeacher', ema=.9)
    runner = drop(
        tiny_runner, Break('resnet', 5), **{'model.teacher': teacher})
    runner.train()
    assert 'resnet is left out from now on' in log(runner)
    state = runner.model.state_dict()
    assert not state['teacher.ema.resnet.backbone.stem.1.running_mean'
                     ].isfinite().any()
    for key, value in state.items():
        assert '.resnet.' in key or value.isfinite().all(), key


def test_drop_by_weights_before_a_checkpoint(tiny_runner):
    """No validation and no checkpoint takes it for alive."""
    runner = drop(tiny_runner, Break('vit', 3, True), epochs=2)
    runner.train()
    record = json.loads((Path(runner.work_dir) / 'record.json').read_text())
    assert record['diverged']['vit']['iteration'] == 4
    assert math.isnan(record['curves']['vit/top1'][0])
    assert 'vit' not in best_top1(record['curves'])
    assert not any(name.startswith('best_vit') for name in saved(runner))


def test_nobody_is_left(tiny_runner):
    runner = drop(tiny_runner, Break('vit', 1), Break('resnet', 5))
    text = refusal(runner)
    assert 'epoch 2, iteration 6: the loss of resnet is nan' in text
    assert 'no branch is left to train' in text
    assert 'set on_divergence' not in text


def test_resume(tiny_runner):
    """The branch stays out, and all else is as in an unbroken run."""
    whole = drop(tiny_runner, Break('vit', 1), work_dir='whole')
    whole.train()
    part = drop(tiny_runner, Break('vit', 1), work_dir='part', epochs=2)
    part.train()
    path = Path(part.work_dir) / 'epoch_2.pth'
    # The weights alone would not tell.
    checkpoint = torch.load(path, weights_only=True)
    for value in checkpoint['state_dict'].values():
        value.nan_to_num_()
    torch.save(checkpoint, path)
    resumed = drop(
        tiny_runner, work_dir='part', resume=True, load_from=str(path))
    resumed.train()
    assert resumed.model.alive.tolist() == [True, False]
    expected = whole.model.state_dict()
    for key, value in resumed.model.state_dict().items():
        if not key.startswith('branches.vit.'):
            assert torch.equal(value, expected[key]), key
    records = [
        json.loads((Path(runner.work_dir) / 'record.json').read_text())
        for runner in (whole, resumed)
    ]
    for key in ('diverged', 'kd_weight'):
        assert records[0][key] == records[1][key]


def test_test_leaves_it_out(tiny_runner):
    """With the checkpoint of a run that has, whatever the config says."""
    runner = drop(tiny_runner, Break('vit', 1), epochs=1)
    runner.train()
    record = json.loads((Path(runner.work_dir) / 'record.json').read_text())
    metrics = tiny_runner(
        work_dir='test',
        load_from=str(Path(runner.work_dir) / 'epoch_1.pth')).test()
    assert metrics['ensemble/top1'] == record['last']['ensemble/top1']
    assert metrics['resnet/top1'] == record['last']['ensemble/top1']
    assert math.isnan(metrics['vit/top1'])


def test_start_from_a_run_that_left_one_out(tiny_runner):
    """It has diverged in that run, not in this one; only weights count."""
    runner = drop(tiny_runner, Break('vit', 1), epochs=1)
    runner.train()
    broken, finite = (
        Path(runner.work_dir) / name for name in ('epoch_1.pth', 'finite.pth'))
    checkpoint = torch.load(broken, weights_only=True)
    for value in checkpoint['state_dict'].values():
        value.nan_to_num_()
    torch.save(checkpoint, finite)
    started = tiny_runner(
        'started', epochs=1, custom_hooks=[RECORD], load_from=str(finite))
    started.train()
    record = json.loads((Path(started.work_dir) / 'record.json').read_text())
    assert record['diverged'] == {}
    assert math.isfinite(record['last']['vit/top1'])
    with pytest.raises(ConfigError, match='^the weights of vit are not finite '
                       'before training; .*load_from'):
        tiny_runner('stop', epochs=1, load_from=str(broken)).train()
    dropped = drop(
        tiny_runner, work_dir='drop', epochs=1, load_from=str(broken))
    dropped.train()
    assert dropped.model.alive.tolist() == [True, False]
    # A test is of that run.
    metrics = tiny_runner('test', load_from=str(finite)).test()
    assert math.isnan(metrics['vit/top1'])


def test_broken_parts():
    model = nn.Module()
    model.branches = nn.ModuleDict(
        dict(
            a=nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)),
            b=nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)),
            c=nn.Linear(2, 2)))
    model.gate = nn.Linear(2, 2)
    model.register_buffer('mask', torch.tensor(-math.inf))
    assert broken_parts(model) == []
    model.branches.a[1].running_var.fill_(math.inf)
    model.branches.c.bias.data[1] = math.nan
    assert broken_parts(model) == ['a', 'c']
    model.branches.c.requires_grad_(False)
    model.gate.weight.data[0, 0] = math.inf
    assert broken_parts(model) == ['a', 'gate']
    assert broken_parts(nn.ReLU()) == []
    # What an average has from its branch is the branch's.
    model.teacher = nn.Module()
    model.teacher.ema = copy.deepcopy(model.branches).requires_grad_(False)
    assert broken_parts(model) == ['a', 'gate']


# Two processes


@pytest.mark.skipif(
    not dist.is_available() or not dist.is_gloo_available(),
    reason='needs gloo')
def test_two_processes(tiny_config, ranks, tmp_path):
    """What one of them sees ends both, or leaves the branch out in both."""
    for on_divergence in ('stop', 'drop'):
        tiny_config(
            on_divergence,
            launcher='pytorch',
            model_wrapper_cfg=dict(
                type='MMDistributedDataParallel', device_ids=None),
            custom_hooks=[KD],
            on_divergence=on_divergence,
            **QUIET,
            **CLIP).dump(tmp_path / f'{on_divergence}.py')
    results = ranks(train_share, tmp_path)
    first, second = (result['stop'] for result in results)
    # Each has half of the images, so that an epoch has two steps.
    assert first['error'] == second['error']
    assert 'epoch 2, iteration 3: the loss of vit is nan' in first['error']
    names = {path.name for path in (tmp_path / 'stop').glob('epoch_*')}
    assert names == {'epoch_1.pth'}

    first, second = (result['drop'] for result in results)
    assert first['error'] is None and second['error'] is None
    names = {path.name for path in (tmp_path / 'drop').glob('epoch_*')}
    assert names == {'epoch_1.pth', 'epoch_2.pth'}
    # In the same step, and not only when the host looks.
    assert first['alive'] == second['alive'] == [True, False]
    assert first['diverged'] == second['diverged']
    assert first['diverged']['vit']['iteration'] == 3
    for key, value in first['state_dict'].items():
        if not key.startswith('branches.vit.'):
            assert value.isfinite().all(), key
        if 'running' not in key:
            torch.testing.assert_close(
                value,
                second['state_dict'][key],
                rtol=0,
                atol=0,
                equal_nan=True)


class Image(Hook):
    """Makes the logits of a branch NaN, on one of two ranks."""

    def before_train_iter(self, runner, **kwargs):
        if runner.iter == 2:
            runner.model.module.branches.vit.head.fc.register_forward_hook(
                lambda module, args, result: result * math.nan)


class Alive(Hook):
    """Notes who is left after that step."""

    def after_train_iter(self, runner, **kwargs):
        if runner.iter == 2:
            self.flags = runner.model.module.alive.tolist()


def train_share(folder):
    """What each of the processes does."""
    results = {}
    for name in ('stop', 'drop'):
        runner = RUNNERS.build(Config.fromfile(f'{folder}/{name}.py'))
        if dist.get_rank() == 1:
            runner.register_hook(Image())
        alive = Alive()
        runner.register_hook(alive)
        result = results[name] = dict(error=None)
        try:
            runner.train()
        except TrainingError as error:
            result['error'] = str(error)
        result.update(
            alive=alive.flags,
            diverged=runner.message_hub.runtime_info.get('diverged'),
            state_dict=runner.model.module.state_dict())
    return results


def test_branches_in_other_processes(tiny_runner, monkeypatch):
    """None of them can be left out, so nobody is told to."""
    assert "on_divergence='drop'" in refusal(
        run(tiny_runner, Break('vit', 1), **QUIET))
    monkeypatch.setattr(divergence_watch, 'branch_size', lambda: 2)
    runner = run(tiny_runner, Break('vit', 1), **QUIET)
    watch = divergence_watch.DivergenceWatch(runner)
    with pytest.raises(TrainingError) as info:
        watch._stop(
            dict(vit=divergence_watch.Fault(1, 0, 1, 'it is nan', .1)))
    assert 'on_divergence' not in str(info.value)
    monkeypatch.setattr(cohort_runtime_info_hook, 'branch_size', lambda: 2)
    checkpoint = dict(message_hub=dict(
        runtime_info=dict(diverged=dict(vit=dict(epoch=1)))))
    hook = cohort_runtime_info_hook.CohortRuntimeInfoHook()
    hook.after_load_checkpoint(runner, checkpoint)
    with pytest.raises(ConfigError, match='has left out vit, which diverged'):
        hook.before_test(runner)
