import copy
import json

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from torch.utils._python_dispatch import TorchDispatchMode

from mcod_plugin.engine.hooks import (CohortRuntimeInfoHook,
                                      cohort_runtime_info_hook)
from mcod_plugin.engine.hooks.cohort_runtime_info_hook import extend


def histories(hub):
    return {
        key: [part.tolist() for part in buffer.data]
        for key, buffer in hub.log_scalars.items()
        if not key.endswith('time')
    }


def logged(folder):
    """The lines that are written for programs, without the times."""
    lines = next(folder.rglob('scalars.json')).read_text().splitlines()
    return [{
        key: value
        for key, value in json.loads(line).items()
        if not key.endswith('time') and key != 'memory'
    } for line in lines]


CHANGES = [
    {},
    # The last batch of an epoch is logged by itself.
    {
        'default_hooks.logger.interval': 3,
        'default_hooks.logger.ignore_last': False,
        'optim_wrapper.clip_grad': dict(max_norm=1.)
    },
    {
        'train_cfg': dict(
            by_epoch=False, max_iters=3, val_interval=3, _delete_=True),
        'default_hooks.checkpoint.by_epoch': False,
        'custom_hooks.0.by_epoch': False
    },
]


@pytest.mark.parametrize('changes', CHANGES)
def test_same_as_the_hook_of_mmengine(tiny_runner, tmp_path, changes):
    ours = tiny_runner('ours', **copy.deepcopy(changes))
    ours.train()
    theirs = tiny_runner('theirs', **{
        **changes, 'default_hooks.runtime_info.type': 'RuntimeInfoHook'
    })
    theirs.train()
    found = histories(ours.message_hub)
    expected = histories(theirs.message_hub)
    for name in ('resnet', 'vit'):
        # There nothing asks for the ratios.
        found.pop(f'train/{name}.kd_ratio')
        # There nothing is told of gaps.
        distances = found.pop(f'train/{name}.loss_kd')[0]
        assert len(distances) == ours.max_iters
        assert list(filter(None, distances)) == expected.pop(
            f'train/{name}.loss_kd')[0]
    assert found == expected
    assert len(found['train/loss'][0]) == ours.max_iters

    def common(folder):
        return [{
            key: value
            for key, value in line.items()
            if not key.endswith(('.loss_kd', '.kd_ratio'))
        } for line in logged(tmp_path / folder)]

    assert common('ours') == common('theirs')


def test_what_waits_keeps_no_step_alive(tiny_runner):
    runner = tiny_runner()
    hook = next(hook for hook in runner.hooks
                if isinstance(hook, CohortRuntimeInfoHook))
    loss = (2 * torch.ones(1, requires_grad=True)).sum()
    hook.after_train_iter(runner, 0, outputs=dict(loss=loss))
    [step] = hook.pending
    [(key, value)] = step.values.items()
    assert key == 'train/loss' and value.item() == 2
    assert value.grad_fn is None


@pytest.mark.parametrize('own', [True, False])
def test_time_since_the_last_log(tiny_runner, tmp_path, own):
    """A device works off what was left to it when a step logs."""
    mine = dict(data_src='time', method_name='max', window_size=2)
    runner = tiny_runner(
        'times', **{
            # Not more than one epoch: MMEngine sleeps for two seconds
            # before it begins another one.
            'train_dataloader.batch_size': 8,
            'default_hooks.logger.interval': 4,
            'log_processor': dict(by_epoch=False, custom_cfg=[mine] * own),
            'train_cfg': dict(
                by_epoch=False, max_iters=8, val_interval=8, _delete_=True),
            'default_hooks.checkpoint.by_epoch': False,
            'default_hooks.checkpoint.interval': 8,
            'custom_hooks.0.by_epoch': False
        })
    runner.train()
    times, _ = runner.message_hub.get_scalar('train/time').data
    lines = next(tmp_path.rglob('scalars.json')).read_text().splitlines()
    logs = [line for line in map(json.loads, lines) if 'lr' in line]
    assert {4, 8} <= {line['iter'] for line in logs}
    for line in logs:
        window = times[:line['iter']][-4:]
        assert line['time'] == pytest.approx(
            window[-2:].max() if own else window.mean())


class Distances(Hook):
    """Notes what the distillation adds to the loss of each step."""

    def __init__(self):
        self.steps = []

    def after_train_iter(self, runner, batch_idx, data_batch, outputs):
        distance = outputs.get('vit.loss_kd', torch.zeros(()))
        self.steps.append(distance.item())


GAPS = dict(
    type='mcod_plugin.DiscontinuousKDHook', on=1, gap=(1, 1), weight=(1., 2.))


class Ask(Hook):
    """Has the ratios of every step measured."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        runner.model.ratio_due = True


class Ratios(Hook):
    """Notes what is measured in each step."""

    def __init__(self):
        self.steps = []

    def after_train_iter(self, runner, batch_idx, data_batch, outputs):
        value = outputs.get('vit.kd_ratio')
        self.steps.append(value if value is None else value.item())


# Each phase four iterations, or one.
@pytest.mark.parametrize('by_epoch', [True, False])
def test_logged_ratio_is_that_of_the_step(tiny_runner, tmp_path, by_epoch):
    end = 4 if by_epoch else 16
    changes = {
        'custom_hooks': [dict(GAPS, end=end, by_epoch=by_epoch)],
        'default_hooks.logger.interval': 3
    }
    every = tiny_runner('every', 4, **copy.deepcopy(changes))
    truth = Ratios()
    every.register_hook(truth)
    every.register_hook(Ask())
    every.train()
    assert None in truth.steps and max(filter(None, truth.steps)) > 0

    runner = tiny_runner('some', 4, **changes)
    seen = Ratios()
    runner.register_hook(seen)
    runner.train()
    # Of each epoch's four steps the first is asked for, the third is logged,
    # and after the last all is read; what a gap leaves out comes after it.
    steps = [(step, value) for step, value in enumerate(seen.steps)
             if value is not None]
    assert [step for step, _ in steps] == (
        [0, 2, 3, 8, 10, 11] if by_epoch else [0, 2, 4, 6, 8, 10, 12, 14])
    assert all(value == truth.steps[step] for step, value in steps)
    # What was measured, and 0 for each step of a gap.
    history = runner.message_hub.get_scalar('train/vit.kd_ratio').data[0]
    assert history.tolist() == pytest.approx([
        found or 0. for found, value in zip(seen.steps, truth.steps)
        if found or not value
    ])
    lines = [
        line for line in logged(tmp_path / 'some') if 'vit.kd_ratio' in line
    ]
    assert [line['step'] for line in lines] == [3, 7, 11, 15]
    for line in lines:
        expected = truth.steps[line['step'] - 1] or 0.
        assert line['vit.kd_ratio'] == pytest.approx(expected)
        assert (line['vit.kd_ratio'] > 0) == (line['kd_weight'] > 0)


# Each phase four iterations, or one.
@pytest.mark.parametrize('by_epoch', [True, False])
def test_gaps_are_logged_as_zero(tiny_runner, tmp_path, by_epoch):
    end = 4 if by_epoch else 16
    changes = dict(custom_hooks=[dict(GAPS, end=end, by_epoch=by_epoch)])
    whole = tiny_runner('whole', 4, **copy.deepcopy(changes))
    truth = Distances()
    whole.register_hook(truth)
    whole.train()
    assert 0 in truth.steps and max(truth.steps) > 0
    history = whole.message_hub.get_scalar('train/vit.loss_kd').data[0]
    assert history.tolist() == pytest.approx(truth.steps)
    lines = [
        line for line in logged(tmp_path / 'whole') if 'vit.loss_kd' in line
    ]
    assert [line['step'] for line in lines] == list(range(2, 17, 2))
    for line in lines:
        # MMEngine takes the mean of the last 10 steps.
        last = truth.steps[max(line['step'] - 10, 0):line['step']]
        assert line['vit.loss_kd'] == pytest.approx(np.mean(last))

    # What goes on in a gap knows of the phase before.
    tiny_runner('broken', 1, **copy.deepcopy(changes)).train()
    resumed = tiny_runner('broken', 4, resume=True, **changes)
    resumed.train()
    assert resumed.message_hub.get_scalar(
        'train/vit.loss_kd').data[0].tolist() == history.tolist()


def test_checkpoint_holds_what_was_not_read_yet(tiny_runner):
    runner = tiny_runner(
        epochs=1, **{
            'default_hooks.logger.interval': 50,
            'default_hooks.checkpoint.by_epoch': False
        })
    runner.train()
    for step in range(1, 5):
        hub = torch.load(
            f'{runner.work_dir}/iter_{step}.pth',
            weights_only=True)['message_hub']
        for key in ('train/lr', 'train/loss', 'train/kd_weight'):
            assert len(hub['log_scalars'][key]['log_history']) == step
            assert hub['resumed_keys'][key]
    assert len(runner.message_hub.get_scalar('train/loss').data[0]) == 4


class Transfers(TorchDispatchMode):
    """Counts how often a number is read from a tensor."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


class Count(Hook):
    """Counts the transfers of every step, its hooks included."""

    priority = 'LOWEST'

    def __init__(self):
        self.counts = []

    def before_train_epoch(self, runner):
        self.mode = Transfers()
        self.mode.__enter__()

    def after_train_iter(self, runner, **kwargs):
        self.counts.append(self.mode.count)
        self.mode.count = 0

    def after_train_epoch(self, runner):
        self.mode.__exit__(None, None, None)


BALANCED = dict(
    type='mcod_plugin.BalancedKDLoss',
    loss=dict(type='mcod_plugin.DiscontinuousKDLoss', standardize=True))


@pytest.mark.parametrize('name, distill, free', [
    ('mcod_plugin.CohortRuntimeInfoHook', {}, True),
    ('mcod_plugin.CohortRuntimeInfoHook', BALANCED, True),
    ('RuntimeInfoHook', {}, False),
])
@pytest.mark.parametrize('clip', [None, dict(max_norm=1.)])
def test_no_step_waits_for_the_device(tiny_runner, name, distill, free, clip):
    runner = tiny_runner(
        epochs=1, **{
            'model.distill': distill,
            'optim_wrapper.clip_grad': clip,
            'default_hooks.runtime_info.type': name,
            'default_hooks.logger.interval': 50
        })
    count = Count()
    runner.register_hook(count)
    if free:
        runner.register_hook(Ask())
    runner.train()
    # Each branch has two losses; there is their sum, and the weight. Before
    # the first step the data loader draws a number. MMEngine logs the norm of
    # gradients that are clipped at once, too.
    waits = 0 if free else 6 + (clip is not None)
    assert count.counts[1:] == [waits] * 3
    assert runner.message_hub.get_scalar('train/loss').current() > 0


@pytest.mark.parametrize('numbers', [[], [1.5], [1, 2, 3], [2, 0.5, 4, 8]])
def test_extend_is_many_updates(numbers):
    ours, theirs = (HistoryBuffer([7], [2], max_length=4) for _ in range(2))
    extend(ours, numbers)
    for number in numbers:
        theirs.update(number)
    for found, expected in zip(ours.data, theirs.data):
        assert found.dtype == expected.dtype
        assert found.tolist() == expected.tolist()


def test_values_do_not_wait_for_ever(tiny_runner, monkeypatch):
    """Also if nothing is logged, and an epoch is long."""
    monkeypatch.setattr(cohort_runtime_info_hook, 'MAX_STEPS', 2)
    lengths = []

    class Waiting(Hook):
        priority = 'LOWEST'

        def after_train_iter(self, runner, **kwargs):
            hook = next(
                hook for hook in runner.hooks if hasattr(hook, 'pending'))
            lengths.append(len(hook.pending))

    runner = tiny_runner(epochs=1, **{'default_hooks.logger.interval': 50})
    runner.register_hook(Waiting())
    runner.train()
    assert [length > 0 for length in lengths] == [True, False, True, False]


def test_first_of_several_learning_rates_is_logged(tiny_runner):
    """As by the hook of MMEngine, and the number of the iteration as well."""
    found = []
    for kind in ('mcod_plugin.CohortRuntimeInfoHook', 'RuntimeInfoHook'):
        runner = tiny_runner(
            kind, 1, **{
                'default_hooks.runtime_info.type': kind,
                'model.branches.vit.lr_mult': .5
            })
        runner.train()
        hub = runner.message_hub
        found.append((hub.get_scalar('train/lr').data[0].tolist(),
                      hub.get_info('iter')))
    assert found[0] == found[1] == ([.05] * 4, 3)
