import pytest
import torch
import torch.nn as nn
from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS
from torchvision.models.vgg import make_layers

from mcod_plugin.errors import ConfigError
from mcod_plugin.models.backbones import CifarVGG
from mcod_plugin.registry import MODELS

# Table 1 of arXiv:1409.1556, columns A, B, D and E; M is a max pooling
TABLE = {
    11: '64 M 128 M 256 256 M 512 512 M 512 512 M',
    13: '64 64 M 128 128 M 256 256 M 512 512 M 512 512 M',
    16: '64 64 M 128 128 M 256 256 256 M 512 512 512 M 512 512 512 M',
    19: '64 64 M 128 128 M 256 256 256 256 M 512 512 512 512 M '
    '512 512 512 512 M',
}


def build(**kwargs):
    return MODELS.build(dict(type='mcod_plugin.CifarVGG', **kwargs))


def num_params(module):
    return sum(param.numel() for param in module.parameters())


def expected_params(depth, width=64, before=3):
    """3x3 convolutions without bias, two numbers per normed channel."""
    total = 0
    for entry in TABLE[depth].split():
        if entry != 'M':
            channels = int(entry) * width // 64
            total += 9 * before * channels + 2 * channels
            before = channels
    return total


@pytest.mark.parametrize(
    'depth, classifier',
    # With the linear head of 512 x 100 + 100 = 51300. For ten classes, depth
    # 19 has 20.04 M in github.com/bearpaw/pytorch-classification's table.
    [(11, 9274532), (13, 9459236), (16, 14770212), (19, 20081188)])
def test_num_params(depth, classifier):
    net = build(depth=depth)
    assert num_params(net) == classifier - 51300 == expected_params(depth)
    assert net.out_channels == 512


def test_num_params_of_other_settings():
    net = build(depth=13, width=8, in_channels=1)
    assert num_params(net) == expected_params(13, 8, 1)
    assert num_params(build(width=8)) == expected_params(16, 8)


@pytest.mark.parametrize('size, last', [(32, 1), (64, 2), (80, 2)])
def test_shapes(size, last):
    net = build(depth=11, width=8)
    assert isinstance(net, CifarVGG)
    feats = net(torch.rand(2, 3, size, size))
    assert isinstance(feats, tuple) and len(feats) == 1
    assert feats[0].shape == (2, 64, last, last)
    assert net.out_channels == 64


@pytest.mark.parametrize('out_indices, shapes', [
    (-1, [(64, 1, 1)]),
    ((0, 1, 2, 3, 4), [(8, 16, 16), (16, 8, 8), (32, 4, 4), (64, 2, 2),
                       (64, 1, 1)]),
    ([4, 2], [(32, 4, 4), (64, 1, 1)]),
])
def test_out_indices(out_indices, shapes):
    settings = dict(depth=11, width=8, out_indices=out_indices)
    feats = build(**settings)(torch.rand(2, 3, 32, 32))
    assert [feat.shape[1:] for feat in feats] == shapes


@pytest.mark.parametrize('depth', TABLE)
def test_against_torchvision(depth):
    """The same maps as torchvision's layers, in the order of the table."""
    torch.manual_seed(0)
    layers = [
        entry if entry == 'M' else int(entry) // 4
        for entry in TABLE[depth].split()
    ]
    reference = make_layers(layers, batch_norm=True).eval()
    net = build(depth=depth, width=16).eval()
    kinds = (nn.Conv2d, nn.BatchNorm2d)
    sources = [m for m in reference.modules() if isinstance(m, kinds)]
    targets = [m for m in net.modules() if isinstance(m, kinds)]
    assert len(sources) == len(targets) == 2 * (depth - 3)
    for source, target in zip(sources, targets):
        if isinstance(source, nn.Conv2d):
            assert target.bias is None
            nn.init.zeros_(source.bias)
            target.weight.data.copy_(source.weight)
        else:
            nn.init.uniform_(source.weight, .5, 2)
            nn.init.normal_(source.bias)
            source.running_var.uniform_(.5, 2)
            target.load_state_dict(source.state_dict())
    inputs = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(net(inputs)[0], reference(inputs))


@pytest.mark.parametrize('settings, message', [
    (dict(depth=15), '^depth of CifarVGG must be one of 11, 13, 16, 19; '
     'got 15$'),
    (dict(depth=True), 'depth .* one of .*; got True$'),
    (dict(depth='16'), "depth .* one of .*; got '16'$"),
    (dict(depth=[16]), r'depth .* one of .*; got \[16\]$'),
    (dict(width=0), 'width .* integer of at least 1; got 0$'),
    (dict(width=.25), 'width .* integer of at least 1; got 0.25$'),
    (dict(in_channels=0), 'in_channels .* of at least 1; got 0$'),
    (dict(out_indices=5), 'out_indices .* from -5 to 4; got 5$'),
    (dict(norm_cfg=None), 'norm_cfg of CifarVGG .* got None$'),
])
def test_refused(settings, message):
    with pytest.raises(ConfigError, match=message) as info:
        build(**settings)
    assert '\n' not in str(info.value)


def test_backward_reaches_every_parameter():
    torch.manual_seed(0)
    net = build(width=8)
    out = net(torch.rand(4, 3, 32, 32))[-1]
    (out * torch.randn_like(out)).sum().backward()
    for name, param in net.named_parameters():
        assert param.grad is not None and param.grad.any(), name


def test_init_weights():
    torch.manual_seed(0)
    net = build(depth=11, width=32)
    for param in net.parameters():
        nn.init.constant_(param, 7)
    net.init_weights()
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            # Kaiming normal: variance 2 / (outgoing connections)
            std = (2 / (module.out_channels * 9))**.5
            assert module.weight.std().item() == pytest.approx(std, rel=.1)
            assert abs(module.weight.mean().item()) < .1 * std
        elif isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all() and (module.bias == 0).all()


def test_mode_can_be_chained():
    net = build(depth=11, width=4)
    assert net.eval() is net and not net.stages[0].training
    assert net.train() is net and net.stages[0].training


def test_in_image_classifier():
    model = MMPRETRAIN_MODELS.build(
        dict(
            type='ImageClassifier',
            backbone=dict(type='mcod_plugin.CifarVGG'),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=100,
                      in_channels=512)))
    assert num_params(model) == 14770212
    assert model.eval()(torch.rand(1, 3, 32, 32)).shape == (1, 100)
