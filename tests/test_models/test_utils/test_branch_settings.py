import pytest
import torch.nn as nn
from mmengine.config import ConfigDict
from mmpretrain.models import ClsDataPreprocessor

from mcod_plugin.errors import ConfigError
from mcod_plugin.models.utils.branch_settings import BranchSettings

MEAN, STD = (125.307, 122.961, 113.8575), (51.5865, 50.847, 51.255)
COHORT = BranchSettings((32, 32), MEAN, STD)
OTHER = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])


def test_of_cohort():
    """The numbers are those of the config, not of its single precision."""
    found = BranchSettings.of_cohort((32, 32),
                                     ClsDataPreprocessor(mean=MEAN, std=STD),
                                     3)
    assert found == COHORT
    found = BranchSettings.of_cohort((32, 32), ClsDataPreprocessor(), 3)
    assert found == BranchSettings((32, 32)) and found.mean is None
    preprocessor = ClsDataPreprocessor(mean=[0, 0, 0], std=[255.])
    found = BranchSettings.of_cohort((32, 48), preprocessor, 3)
    assert (found.mean, found.std) == ((0, 0, 0), (255, 255, 255))


def test_nothing_said():
    cfg = dict(backbone=dict(type='ResNet'))
    assert COHORT.take('a', cfg, 3) == (cfg, COHORT)
    for value in ('resnet18', None, [cfg]):
        assert COHORT.take('a', value, 3) == (value, COHORT)


def test_all_said():
    net = dict(backbone=dict(type='ResNet'))
    cfg = ConfigDict(
        net,
        **OTHER,
        input_size=64,
        lr_mult=.1,
        decay_mult=0,
        loss_weight=2.)
    given = ConfigDict(cfg)
    rest, found = COHORT.take('a', cfg, 3)
    assert cfg == given and rest == net and type(rest) is ConfigDict
    assert found == BranchSettings((64, 64),
                                   tuple(OTHER['mean']),
                                   tuple(OTHER['std']),
                                   resized=True,
                                   lr_mult=.1,
                                   decay_mult=0,
                                   loss_weight=2.)
    _, found = COHORT.take('a', dict(frozen=True, input_size=(32, 48)), 3)
    assert found.frozen and found.input_size == (32, 48)
    assert found.mean == MEAN


def test_built_branch():
    net = nn.Linear(2, 3)
    assert COHORT.take('a', net, 3) == (net, COHORT)
    net.requires_grad_(False)
    assert COHORT.take('a', net, 3)[1].frozen


@pytest.mark.parametrize('changes, message', [
    (dict(mean=[1., 2.]), '.mean must be a list of 3 numbers.*got .1.0, 2.0'),
    (dict(mean=120.), '.mean must be a list of 3 numbers.*got 120'),
    (dict(std=[1, 2, 'a']), '.std must be a list of 3 numbers'),
    (dict(std=[1, 2, True]), '.std must be a list of 3 numbers'),
    (dict(std=[1, 2, float('nan')]), '.std must be a list of 3 numbers'),
    (dict(std=[50., 0., 50.]), '.std must be greater than 0'),
    (dict(mean=None), '.mean must be a list'),
    (dict(mean=[.485, .456, .406], std=[.229, .224, .225]),
     r'.std must be on the scale.*51.5865.*got.*0.229.*255'),
])
def test_refused_statistics(changes, message):
    refused({**OTHER, **changes}, message)


@pytest.mark.parametrize('cfg, message', [
    (dict(mean=OTHER['mean']), 'must have both mean and std.*got mean alone'),
    (dict(std=OTHER['std']), 'must have both mean and std.*got std alone'),
    (dict(input_size='64'), '.input_size must be a positive'),
    (dict(input_size=None), '.input_size must be a positive'),
    (dict(frozen='yes'), '.frozen must be one of'),
    (dict(lr_mult=0), '.lr_mult must be a finite number greater than 0'),
    (dict(lr_mult='1'), ".lr_mult must be .* got '1'"),
    (dict(decay_mult=-1), '.decay_mult must be a finite number of at least 0'),
    (dict(loss_weight=0), '.loss_weight must be .*greater than 0; got 0'),
    (dict(loss_weight=None), '.loss_weight must be'),
    (dict(frozen=True, lr_mult=2), '.lr_mult is not used.*frozen'),
    (dict(frozen=True, loss_weight=1), '.loss_weight is not used.*frozen'),
])
def test_refused(cfg, message):
    refused(cfg, message)


def refused(cfg, message):
    with pytest.raises(
            ConfigError, match=f'^model.branches.a ?{message}') as info:
        COHORT.take('a', cfg, 3)
    assert '\n' not in str(info.value)


def test_images_of_numbers_from_0_to_1():
    """A scale is only told by the cohort's own values."""
    small = dict(mean=[.5] * 3, std=[.5] * 3)
    for cohort in (BranchSettings((32, 32)),
                   BranchSettings((32, 32), (.4, ) * 3, (.2, ) * 3)):
        assert cohort.take('a', small, 3)[1].std == (.5, .5, .5)
