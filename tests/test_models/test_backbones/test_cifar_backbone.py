import numpy as np
import pytest
import torch
import torch.nn as nn

from mcod_plugin.errors import ConfigError
from mcod_plugin.models.backbones import (CifarAlexNet, CifarDenseNet,
                                          CifarResNet, CifarVGG)
from mcod_plugin.models.backbones.cifar_backbone import CifarBackbone
from mcod_plugin.registry import MODELS

# each with settings that make it small, and its number of stages
NETS = {
    CifarAlexNet: (dict(width=4), 3),
    CifarDenseNet: (dict(depth=10, growth=4), 3),
    CifarResNet: (dict(depth=8, width=4), 3),
    CifarVGG: (dict(depth=11, width=4), 5),
}
WITH_NORM = [cls for cls in NETS if cls is not CifarAlexNet]

every_net = pytest.mark.parametrize('cls', NETS)
every_net_with_norm = pytest.mark.parametrize('cls', WITH_NORM)


def build(cls, **kwargs):
    return cls(**{**NETS[cls][0], **kwargs})


class Scales(CifarBackbone):
    """Two stages, each of which doubles its input."""
    num_stages = 2

    def __init__(self, in_channels=3, out_indices=-1, **kwargs):
        super().__init__(in_channels, out_indices, **kwargs)
        for _ in range(2):
            conv = nn.Conv2d(3, 3, 1, groups=3, bias=False)
            nn.init.constant_(conv.weight, 2)
            self.stages.append(conv)
        self.out_channels = 3


def test_base_is_abstract_and_not_registered():
    with pytest.raises(TypeError, match='abstract'):
        CifarBackbone(3, 0)
    assert MODELS.get('mcod_plugin.CifarBackbone') is None


@pytest.mark.parametrize('out_indices, stages, factors', [
    (0, (0, ), [2]),
    (-1, (1, ), [4]),
    ([-1, 0], (0, 1), [2, 4]),
    ((np.int64(1), ), (1, ), [4]),
])
def test_forward_without_stem(out_indices, stages, factors):
    net = Scales(out_indices=out_indices)
    inputs = torch.rand(2, 3, 5, 5)
    feats = net(inputs)
    assert net.out_indices == stages
    assert isinstance(feats, tuple) and len(feats) == len(factors)
    for feat, factor in zip(feats, factors):
        assert torch.equal(feat, factor * inputs)
    assert list(net.state_dict()) == ['stages.0.weight', 'stages.1.weight']


def test_forward_begins_with_the_stem():
    net = Scales()
    net.stem = nn.MaxPool2d(5)
    inputs = torch.rand(2, 3, 5, 5)
    assert torch.equal(net(inputs)[0], 4 * inputs.amax((2, 3), keepdim=True))


def test_network_without_norm_layers():
    with pytest.raises(ConfigError, match='norm_cfg of Scales .* got None$'):
        Scales().build_norm(3)
    assert isinstance(
        Scales(norm_cfg=dict(type='BN')).build_norm(3), nn.BatchNorm2d)


@every_net
def test_stages_and_channels(cls):
    net = build(cls)
    assert isinstance(net, CifarBackbone)
    assert len(net.stages) == net.num_stages == NETS[cls][1]
    assert net(torch.rand(2, 3, 32, 32))[-1].shape[1] == net.out_channels


@every_net
def test_out_indices(cls):
    num_stages = NETS[cls][1]
    every = build(cls, out_indices=tuple(range(num_stages))).eval()
    last = build(cls).eval()
    assert last.out_indices == (num_stages - 1, )
    last.load_state_dict(every.state_dict())
    inputs = torch.rand(2, 3, 32, 32)
    feats = every(inputs)
    assert len(feats) == num_stages
    assert torch.equal(feats[-1], last(inputs)[0])


@every_net
@pytest.mark.parametrize(
    'out_indices',
    [(), None, '2', 1., True, [0, 0], (0, None), {0}, 5, -6])
def test_out_indices_refused(cls, out_indices):
    last = NETS[cls][1] - 1
    with pytest.raises(ConfigError) as info:
        build(cls, out_indices=out_indices)
    assert str(info.value) == (
        f'out_indices of {cls.__name__} must be one or more different stages '
        f'from {-last - 1} to {last}; got {out_indices!r}')


@every_net
def test_out_indices_given_twice(cls):
    with pytest.raises(ConfigError, match=r'different .* got \(0, -\d\)$'):
        build(cls, out_indices=(0, -NETS[cls][1]))


@every_net
@pytest.mark.parametrize('in_channels', [0, -1, 3., '3', True, None])
def test_in_channels_refused(cls, in_channels):
    with pytest.raises(ConfigError) as info:
        build(cls, in_channels=in_channels)
    assert str(info.value) == (
        f'in_channels of {cls.__name__} must be an integer of at least 1; '
        f'got {in_channels!r}')


@every_net
def test_in_channels(cls):
    assert len(build(cls, in_channels=1)(torch.rand(2, 1, 32, 32))) == 1


@every_net_with_norm
@pytest.mark.parametrize('norm_cfg', [
    None, 'BN',
    dict(),
    dict(type='Nope'),
    dict(type='GN', num_groups=7),
    dict(type='BN', num_groups=2)
])
def test_norm_cfg_refused(cls, norm_cfg):
    with pytest.raises(ConfigError) as info:
        build(cls, norm_cfg=norm_cfg)
    message = str(info.value)
    assert message.startswith(f'norm_cfg of {cls.__name__} must be the config')
    assert message.endswith(f'; got {norm_cfg!r}') and '\n' not in message


@every_net_with_norm
def test_norm_cfg(cls):
    norm_cfg = dict(type='GN', num_groups=1)
    net = build(cls, norm_cfg=norm_cfg)
    kinds = {
        type(module)
        for module in net.modules() if 'Norm' in type(module).__name__
    }
    assert kinds == {nn.GroupNorm}
    assert norm_cfg == dict(type='GN', num_groups=1)


@every_net
def test_mode_can_be_chained(cls):
    net = build(cls)
    assert net.eval() is net
    assert not any(module.training for module in net.modules())
    assert net.train() is net
    assert all(module.training for module in net.modules())


@every_net
def test_networks_share_no_default(cls):
    first, second = build(cls), build(cls)
    # The toolbox may write into a network's own initialization config.
    assert first.init_cfg == second.init_cfg
    assert first.init_cfg is not second.init_cfg
