import random

import numpy as np
import pytest
import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.hooks import Hook

from mcod_plugin.engine.hooks import epoch_seed_hook
from mcod_plugin.registry import RUNNERS


class Draw(Hook):
    """Draws one number of every generator at the start of each epoch."""

    priority = 'LOWEST'

    def __init__(self):
        self.numbers = []

    def before_train_epoch(self, runner):
        self.numbers.append(
            (random.random(), np.random.rand(), torch.rand(1).item()))


def draws(runner):
    draw = Draw()
    runner.register_hook(draw)
    runner.train()
    return draw.numbers


def test_randomness_is_a_function_of_seed_and_epoch(tiny_runner):
    first = draws(tiny_runner('a'))
    assert first == draws(tiny_runner('b'))
    assert first[0] != first[1]
    others = draws(tiny_runner('c', **{'randomness.seed': 4}))
    assert not set(first) & set(others)


def test_ranks_differ(tiny_runner, monkeypatch):
    first = draws(tiny_runner('a', 1))
    monkeypatch.setattr(epoch_seed_hook, 'data_rank', lambda: 1)
    assert first != draws(tiny_runner('b', 1))


@pytest.mark.parametrize('changes, setting', [
    ({
        'in_memory': False,
        'train_dataloader.num_workers': 1,
        'train_dataloader.persistent_workers': True
    }, 'train_dataloader.persistent_workers=True'),
    ({
        'train_cfg': dict(by_epoch=False, max_iters=4, _delete_=True),
        'custom_hooks.0.by_epoch': False,
        'default_hooks.checkpoint.by_epoch': False,
        'default_hooks.checkpoint.interval': 3,
        'optim_wrapper.accumulative_counts': 2
    }, 'accumulative_counts=2 does not divide the 3 iterations from one '
     'checkpoint'),
    ({
        'optim_wrapper.accumulative_counts': 3
    }, 'accumulative_counts=3 does not divide the 4 iterations'),
])
def test_warns_where_resuming_is_not_exact(tiny_runner, tmp_path, changes,
                                           setting):
    tiny_runner('a', 1, **changes).train()
    assert setting in next(tmp_path.rglob('*.log')).read_text()


def test_exact_resuming_by_iterations_is_not_warned_of(tiny_runner, tmp_path):
    tiny_runner(
        'a', **{
            'train_cfg': dict(by_epoch=False, max_iters=4, _delete_=True),
            'default_hooks.checkpoint.by_epoch': False,
            'default_hooks.checkpoint.interval': 2,
            'optim_wrapper.accumulative_counts': 2
        }).train()
    assert 'a resumed run' not in next(tmp_path.rglob('*.log')).read_text()


@pytest.mark.parametrize('counts', [1, 2, 4])
def test_exact_resuming_is_not_warned_of(tiny_runner, tmp_path, counts):
    tiny_runner('a', 1, **{
        'optim_wrapper.accumulative_counts': counts
    }).train()
    assert 'a resumed run' not in next(tmp_path.rglob('*.log')).read_text()


def test_sampler_gets_the_seed_of_the_run(tiny_runner):
    runner = tiny_runner('a', 1)
    runner.train_dataloader.sampler.seed = 99
    runner.train()
    assert runner.train_dataloader.sampler.seed == 3
    assert runner.train_dataloader.worker_init_fn is None


@pytest.mark.skipif(
    not dist.is_available() or not dist.is_gloo_available(),
    reason='needs gloo')
@pytest.mark.parametrize('differ', [False, True])
def test_two_processes_share_an_epoch(tiny_config, ranks, tmp_path, differ):
    changes = {
        'randomness.diff_rank_seed': differ,
        'val_cfg': None,
        'val_dataloader': None,
        'val_evaluator': None
    }
    cfg = tiny_config('ranks', **changes)
    cfg.dump(tmp_path / 'config.py')
    first, second = ranks(train_share, tmp_path / 'config.py')
    # The shares are those of the one order that a single process has.
    sampler = RUNNERS.build(tiny_config('alone')).train_dataloader.sampler
    sampler.seed = 3
    for epoch, shares in enumerate(zip(first['images'], second['images'])):
        sampler.set_epoch(epoch)
        order = [index for pair in zip(*shares) for index in pair]
        assert order == list(sampler)
        assert sorted(order) == list(range(64))
    assert first['numbers'] != second['numbers']


class Images(Hook):
    """Notes the numbers of the images of each epoch."""

    def __init__(self):
        self.epochs = []

    def before_train_epoch(self, runner):
        self.epochs.append([])

    def after_train_iter(self, runner, batch_idx, data_batch, outputs):
        self.epochs[-1] += [
            sample.sample_idx for sample in data_batch['data_samples']
        ]


def train_share(config):
    """What each of the processes does."""
    runner = RUNNERS.build(Config.fromfile(config))
    images = Images()
    runner.register_hook(images)
    return dict(numbers=draws(runner), images=images.epochs)
