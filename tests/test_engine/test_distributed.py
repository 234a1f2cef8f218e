"""Two processes that stop and go on, against two that do not."""

import pytest
import torch
import torch.distributed as dist
from mmengine.config import Config

from mcod_plugin.errors import ConfigError

pytestmark = pytest.mark.skipif(
    not dist.is_available() or not dist.is_gloo_available(),
    reason='needs gloo')


def train(config, work_dir, epochs, order, resume=False):
    """Parameters and their states by name, as rank 0 has them."""
    from mcod_plugin.registry import RUNNERS
    cfg = Config.fromfile(config)
    branches = cfg.model.branches
    branches.vgg.lr_mult = 0.5
    cfg.merge_from_dict({
        'model.branches':
        dict(_delete_=True, **{name: branches[name]
                               for name in order}),
        'work_dir':
        work_dir,
        'launcher':
        'pytorch',
        'model_wrapper_cfg':
        dict(type='MMDistributedDataParallel', device_ids=None),
        'train_cfg.max_epochs':
        epochs,
        'param_scheduler': [
            dict(type='CosineAnnealingLR', end=2, eta_min=1e-3),
            dict(type='MultiStepLR', milestones=[1], gamma=0.5, end=2)
        ],
        'randomness':
        dict(seed=0),
        'resume':
        resume,
    })
    for key in ('val_cfg', 'val_dataloader', 'val_evaluator'):
        cfg[key] = None
    cfg.custom_hooks = []
    cfg.experiment_name = f'{work_dir}_{epochs}_{resume}'
    runner = RUNNERS.build(cfg)
    runner.train()
    model, optimizer = runner.model.module, runner.optim_wrapper.optimizer
    assert list(model.branches) == list(order)
    values = {}
    for name, parameter in model.named_parameters():
        values[name] = parameter.detach()
        values.update({
            f'{name}/{key}': value
            for key, value in optimizer.state[parameter].items()
        })
    return values


def train_all(folder, config):
    """What each of the processes does."""
    whole = train(config, f'{folder}/whole', 2, ('resnet', 'vgg'))
    train(config, f'{folder}/broken', 1, ('resnet', 'vgg'))
    resumed = train(
        config, f'{folder}/broken', 2, ('vgg', 'resnet'), resume=True)
    # Each has a disk of its own, and rank 0 alone has written to it.
    with pytest.raises(ConfigError, match='not find the same checkpoint'):
        train(
            config,
            f'{folder}/{("broken", "other")[dist.get_rank()]}',
            3, ('vgg', 'resnet'),
            resume=True)
    return whole, resumed


def test_branches_in_another_order(ranks, tmp_path):
    from ..tiny import TINY
    (tmp_path / 'tiny.py').write_text(TINY)
    (whole, resumed), _ = ranks(train_all, tmp_path, tmp_path / 'tiny.py')
    assert whole.keys() == resumed.keys()
    for key, value in whole.items():
        assert torch.equal(resumed[key], value), key
    checkpoint = torch.load(tmp_path / 'broken/epoch_2.pth', weights_only=True)
    names = [
        name for group in checkpoint['optimizer']['param_groups']
        for name in group['param_names']
    ]
    assert sorted(names) == sorted(key for key in whole if '/' not in key)
    assert len(whole) > 2 * len(names)
