import pytest
import torch
import torch.nn as nn
from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS

from mcod_plugin.errors import ConfigError
from mcod_plugin.models.backbones import CifarResNet
from mcod_plugin.registry import MODELS


def build(**kwargs):
    return MODELS.build(dict(type='mcod_plugin.CifarResNet', **kwargs))


def num_params(module):
    return sum(param.numel() for param in module.parameters())


def expected_params(depth, width=16, in_channels=3):
    """3x3 stem, n blocks of two 3x3 convolutions in each of three stages, a
    1x1 shortcut where the width changes, two numbers per normed channel."""
    total = 9 * in_channels * width + 2 * width
    before = width
    for channels in (width, 2 * width, 4 * width):
        for _ in range((depth - 2) // 6):
            total += 9 * before * channels + 2 * channels
            total += 9 * channels * channels + 2 * channels
            if before != channels:
                total += before * channels + 2 * channels
            before = channels
    return total


@pytest.mark.parametrize(
    'depth, classifier, millions',
    # With a linear head of 64 x 100 + 100 = 6500. The CIFAR-100 table of
    # github.com/osmr/imgclsmob has the sizes of depth 20, 56 and 110.
    [(20, 278324, .28), (32, 472756, .47), (44, 667188, .67),
     (56, 861620, .86), (110, 1736564, 1.74)])
def test_num_params(depth, classifier, millions):
    net = build(depth=depth)
    assert num_params(net) == classifier - 6500 == expected_params(depth)
    assert classifier / 1e6 == pytest.approx(millions, abs=.005)


def test_num_params_of_other_settings():
    assert num_params(build()) == expected_params(20)
    assert num_params(build(depth=8)) == expected_params(8)
    net = build(depth=14, width=10, in_channels=1)
    assert num_params(net) == expected_params(14, 10, 1)
    assert net.out_channels == 40


@pytest.mark.parametrize('size, last', [(32, 8), (48, 12), (17, 5)])
def test_shapes(size, last):
    net = build(depth=8)
    assert isinstance(net, CifarResNet)
    feats = net(torch.rand(2, 3, size, size))
    assert isinstance(feats, tuple) and len(feats) == 1
    assert feats[0].shape == (2, 64, last, last)
    assert net.out_channels == 64


@pytest.mark.parametrize('out_indices, channels', [
    (2, [64]),
    (-1, [64]),
    ((0, 1, 2), [16, 32, 64]),
    ([-1, 0], [16, 64]),
    ((1, ), [32]),
])
def test_out_indices(out_indices, channels):
    feats = build(
        depth=8, out_indices=out_indices)(
            torch.rand(2, 3, 32, 32))
    sizes = {16: 32, 32: 16, 64: 8}
    assert [feat.shape[1:] for feat in feats
            ] == [(width, sizes[width], sizes[width]) for width in channels]


def test_against_explicit_forward():
    """The formula of the paper, block by block, with the same weights."""
    torch.manual_seed(0)
    net = build(depth=14, width=4).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(.5, 2)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    layers = iter([
        module for module in net.modules()
        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d))
    ])

    def conv_norm(x, kernel, stride):
        conv, norm = next(layers), next(layers)
        weight = conv.weight
        assert weight.shape[2:] == (kernel, kernel) and conv.bias is None
        x = torch.conv2d(x, weight, stride=stride, padding=kernel // 2)
        shape = (1, -1, 1, 1)
        x = (x - norm.running_mean.view(shape)) / (
            norm.running_var.view(shape) + 1e-5).sqrt()
        return x * norm.weight.view(shape) + norm.bias.view(shape)

    inputs = torch.randn(2, 3, 16, 16)
    x = conv_norm(inputs, 3, 1).clamp(min=0)
    for stage in range(3):
        for block in range(2):
            changes = stage > 0 and block == 0
            stride = 2 if changes else 1
            y = conv_norm(x, 3, stride).clamp(min=0)
            y = conv_norm(y, 3, 1)
            x = (y + (conv_norm(x, 1, stride) if changes else x)).clamp(min=0)
    assert next(layers, None) is None
    torch.testing.assert_close(net(inputs)[0], x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('settings, message', [
    (dict(depth=21), r'^depth of CifarResNet must be 6n\+2 .*; got 21$'),
    (dict(depth=2), 'depth .* integer of at least 8; got 2$'),
    (dict(depth='20'), "depth .* integer of at least 8; got '20'$"),
    (dict(width=0), 'width .* integer of at least 1; got 0$'),
    (dict(width=1.5), 'width .* integer of at least 1; got 1.5$'),
    (dict(width=True), 'width .* integer of at least 1; got True$'),
    (dict(in_channels=0), 'in_channels .* of at least 1; got 0$'),
    (dict(out_indices=3), 'out_indices .* from -3 to 2; got 3$'),
    (dict(out_indices=(0, -4)), r'out_indices .* got \(0, -4\)$'),
    (dict(out_indices=(2, -1)), r'out_indices .* different .*\(2, -1\)$'),
    (dict(out_indices=()), r'out_indices .* one or more .* got \(\)$'),
    (dict(out_indices='2'), "out_indices .* got '2'$"),
    (dict(out_indices=1.), 'out_indices .* got 1.0$'),
    (dict(norm_cfg=None), 'norm_cfg of CifarResNet .* got None$'),
    (dict(norm_cfg=dict(type='Nope')), "norm_cfg .* got {'type': 'Nope'}$"),
    (dict(norm_cfg=dict(type='GN', num_groups=3)), 'norm_cfg .* 16 channels'),
])
def test_refused(settings, message):
    with pytest.raises(ConfigError, match=message) as info:
        build(**settings)
    assert '\n' not in str(info.value)


def test_backward_reaches_every_parameter():
    torch.manual_seed(0)
    net = build(depth=14)
    out = net(torch.rand(4, 3, 32, 32))[-1]
    (out * torch.randn_like(out)).sum().backward()
    for name, param in net.named_parameters():
        assert param.grad is not None and param.grad.any(), name


def test_init_weights():
    torch.manual_seed(0)
    net = build(depth=8, width=32)
    for param in net.parameters():
        nn.init.constant_(param, 7)
    net.init_weights()
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            # Kaiming normal: variance 2 / (outgoing connections)
            std = (2 / (module.out_channels * module.kernel_size[0]**2))**.5
            assert module.weight.std().item() == pytest.approx(std, rel=.1)
            assert abs(module.weight.mean().item()) < .1 * std
        elif isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all() and (module.bias == 0).all()


def test_other_norm():
    net = build(depth=8, norm_cfg=dict(type='GN', num_groups=4))
    assert not any(isinstance(m, nn.BatchNorm2d) for m in net.modules())
    assert sum(isinstance(m, nn.GroupNorm) for m in net.modules()) == 9
    assert net(torch.rand(1, 3, 32, 32))[0].shape == (1, 64, 8, 8)


def test_mode_can_be_chained():
    net = build(depth=8)
    assert net.eval() is net and not net.stem[1].training
    assert net.train() is net and net.stem[1].training


def test_in_image_classifier():
    model = MMPRETRAIN_MODELS.build(
        dict(
            type='ImageClassifier',
            backbone=dict(type='mcod_plugin.CifarResNet', depth=20),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=100, in_channels=64)))
    assert num_params(model) == 278324
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 100)
