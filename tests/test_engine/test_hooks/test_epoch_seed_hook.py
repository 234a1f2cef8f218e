import random

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook

from mcod_plugin.engine.hooks import epoch_seed_hook


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
    monkeypatch.setattr(epoch_seed_hook, 'get_rank', lambda: 1)
    assert first != draws(tiny_runner('b', 1))


@pytest.mark.parametrize('changes, setting', [
    ({
        'in_memory': False,
        'train_dataloader.num_workers': 1,
        'train_dataloader.persistent_workers': True
    }, 'train_dataloader.persistent_workers=True'),
    ({
        'train_cfg': dict(by_epoch=False, max_iters=4, _delete_=True)
    }, 'train_cfg.by_epoch=False'),
])
def test_warns_where_resuming_is_not_exact(tiny_runner, tmp_path, changes,
                                           setting):
    tiny_runner('a', 1, **changes).train()
    assert setting in next(tmp_path.rglob('*.log')).read_text()


def test_sampler_gets_the_seed_of_the_run(tiny_runner):
    runner = tiny_runner('a', 1)
    runner.train_dataloader.sampler.seed = 99
    runner.train()
    assert runner.train_dataloader.sampler.seed == 3
    assert runner.train_dataloader.worker_init_fn is None
