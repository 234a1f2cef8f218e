import pytest

from mcod_plugin.errors import ConfigError
from mcod_plugin.models.utils.branch_settings import BranchSettings
from speed.optimizer_alone import optim_wrapper_alone


def branch(**settings):
    return BranchSettings((32, 32), **settings)


def test_rate_and_decay_of_the_branch():
    cfg = dict(optimizer=dict(type='SGD', lr=0.1, weight_decay=1e-3))
    found = optim_wrapper_alone(cfg, branch(lr_mult=.5, decay_mult=0.))
    assert found['optimizer'] == dict(type='SGD', lr=0.05, weight_decay=0)
    # The config of the caller stays as it is.
    assert cfg['optimizer']['lr'] == 0.1
    assert optim_wrapper_alone(cfg, branch()) == cfg


@pytest.mark.parametrize('key, setting', [('lr_mult', 'lr'),
                                          ('decay_mult', 'weight_decay')])
def test_factor_of_nothing(key, setting):
    with pytest.raises(
            ConfigError,
            match=f'^{key} is a factor of optim_wrapper.optimizer.{setting}, '
            'which must be set$'):
        optim_wrapper_alone(
            dict(optimizer=dict(type='SGD')), branch(**{key: 2.}))


def test_optimizer_of_the_branch():
    """The rest of the recipe is the cohort's."""
    own = dict(type='AdamW', lr=0.01, weight_decay=0.1)
    cfg = dict(
        optimizer=dict(type='SGD', lr=0.1),
        accumulative_counts=2,
        clip_grad=dict(max_norm=1.))
    found = optim_wrapper_alone(
        cfg, branch(optimizer=own, lr_mult=.5, clip_grad=dict(max_norm=2.)))
    assert found == dict(
        optimizer=dict(type='AdamW', lr=0.005, weight_decay=0.1),
        accumulative_counts=2,
        clip_grad=dict(max_norm=2.))
    assert own['lr'] == 0.01 and cfg['optimizer']['type'] == 'SGD'
    assert optim_wrapper_alone(cfg, branch(clip_grad={}))['clip_grad'] is None
    with pytest.raises(ConfigError, match='^lr_mult is a factor of optimizer'):
        optim_wrapper_alone(
            cfg, branch(optimizer=dict(type='AdamW'), lr_mult=2.))
