import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.device import get_device

from mcod_plugin.engine.optim_wrapper import (prefer_fused,
                                              prepare_optim_wrapper)
from mcod_plugin.errors import ConfigError


@pytest.mark.parametrize('optimizer', [
    dict(
        type='SGD', lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4),
    dict(type='AdamW', lr=1e-3, weight_decay=0.05),
])
def test_same_updates(tiny_runner, optimizer):
    """What is fused rounds otherwise, and does nothing else otherwise."""
    weights = []
    for fused in (None, False):
        changed = dict(optimizer, fused=fused, _delete_=True)
        runner = tiny_runner(f'fused_{fused}', 1,
                             **{'optim_wrapper.optimizer': changed})
        runner.train()
        (group, ) = runner.optim_wrapper.param_groups
        assert group['fused'] == (fused is None)
        weights.append(
            torch.cat([
                value.detach().flatten()
                for value in runner.model.parameters()
            ]))
    torch.testing.assert_close(*weights, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize('counts', [0, 'two', 1.5])
def test_number_of_accumulated_batches(counts):
    cfg = dict(
        optimizer=dict(type='SGD', lr=0.1), accumulative_counts=counts)
    with pytest.raises(
            ConfigError,
            match='^optim_wrapper.accumulative_counts must be an integer of '
            f'at least 1; got {counts!r}$'):
        prepare_optim_wrapper(cfg, torch.nn.Linear(1, 1), False)


def test_groups_of_parameters(tiny_runner):
    runner = tiny_runner(
        epochs=1,
        **{
            'optim_wrapper.paramwise_cfg':
            dict(custom_keys={'branches.vit.': dict(lr_mult=0.1)})
        })
    runner.train()
    groups = runner.optim_wrapper.param_groups
    assert len({group['initial_lr'] for group in groups}) == 2
    assert all(group['fused'] for group in groups)
    assert 'fused' not in runner.cfg.optim_wrapper.optimizer


@pytest.mark.parametrize('settings', [
    dict(fused=False),
    dict(fused=True),
    dict(foreach=True),
    dict(foreach=False),
    dict(differentiable=True),
])
def test_choice_of_the_user_wins(settings):
    cfg = dict(type='SGD', lr=0.1, **settings)
    assert prefer_fused(cfg, get_device()) == cfg


@pytest.mark.parametrize('kind', [
    'Rprop', 'LBFGS', 'RMSprop', 'Lamb', 'NoSuchOptimizer', torch.optim.Rprop
])
def test_optimizers_that_cannot_be_fused(kind):
    cfg = dict(type=kind, lr=0.1)
    assert prefer_fused(cfg, get_device()) == cfg


def test_mistakes_are_left_to_the_optimizer():
    cfg = dict(type='SGD', momentun=0.9)
    assert prefer_fused(cfg, get_device()) == cfg


@pytest.mark.parametrize('kind', ['SGD', torch.optim.SGD])
def test_given_config_is_not_changed(kind):
    cfg = ConfigDict(type=kind, lr=0.1)
    fused = prefer_fused(cfg, get_device())
    assert fused == dict(cfg, fused=True) and isinstance(fused, ConfigDict)
    assert 'fused' not in cfg


def test_what_is_derived_from_an_optimizer_is_another():

    class Own(torch.optim.SGD):
        pass

    cfg = dict(type=Own, lr=0.1)
    assert prefer_fused(cfg, get_device()) is cfg
