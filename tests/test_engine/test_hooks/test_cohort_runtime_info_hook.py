import copy
import json
import math

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from torch.utils._python_dispatch import TorchDispatchMode

from mcod_plugin.engine.hooks.cohort_runtime_info_hook import extend, to_host


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
    assert found == histories(theirs.message_hub)
    assert len(found['train/loss'][0]) == ours.max_iters
    assert len(found['train/resnet.loss_kd'][0]) < ours.max_iters
    assert logged(tmp_path / 'ours') == logged(tmp_path / 'theirs')


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


@pytest.mark.parametrize('name, free', [('mcod_plugin.CohortRuntimeInfoHook',
                                         True), ('RuntimeInfoHook', False)])
def test_no_step_waits_for_the_device(tiny_runner, name, free):
    runner = tiny_runner(
        epochs=1, **{
            'default_hooks.runtime_info.type': name,
            'default_hooks.logger.interval': 50
        })
    count = Count()
    runner.register_hook(count)
    runner.train()
    # Each branch has two losses; there is their sum, and the weight. Before
    # the first step the data loader draws a number.
    assert count.counts[1:] == [0 if free else 6] * 3
    assert runner.message_hub.get_scalar('train/loss').current() > 0


def test_to_host_gives_what_item_gives():
    values = [
        torch.tensor(0.1), 3, 0.5,
        torch.tensor(7),
        torch.tensor(0.1, dtype=torch.float64),
        torch.tensor(True),
        np.float64(2.5),
        torch.tensor(math.inf),
        torch.tensor(0.1, dtype=torch.bfloat16)
    ]
    found = to_host(values)
    for value, number in zip(values, found):
        expected = value.item() if hasattr(value, 'item') else value
        assert number == expected and type(number) is type(expected)
    assert to_host([]) == []


@pytest.mark.parametrize('numbers', [[], [1.5], [1, 2, 3], [2, 0.5, 4, 8]])
def test_extend_is_many_updates(numbers):
    ours, theirs = (HistoryBuffer([7], [2], max_length=4) for _ in range(2))
    extend(ours, numbers)
    for number in numbers:
        theirs.update(number)
    for found, expected in zip(ours.data, theirs.data):
        assert found.dtype == expected.dtype
        assert found.tolist() == expected.tolist()
