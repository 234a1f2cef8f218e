from types import SimpleNamespace

import pytest

from mcod_plugin.alone.optimizer import optim_wrapper_alone
from mcod_plugin.errors import ConfigError


def branch(**factors):
    return SimpleNamespace(**{'lr_mult': 1, 'decay_mult': 1, **factors})


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
