import pytest
import torch
import torch.nn as nn
from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS

from mcod_plugin.errors import ConfigError
from mcod_plugin.models.backbones import CifarDenseNet
from mcod_plugin.registry import MODELS


def build(**kwargs):
    return MODELS.build(dict(type='mcod_plugin.CifarDenseNet', **kwargs))


def num_params(module):
    return sum(param.numel() for param in module.parameters())


def expected_params(depth, growth, bottleneck, compression, in_channels=3):
    """Parameters and last channels: before each convolution but the first
    there is a norm layer with two numbers per channel."""
    channels = 2 * growth if bottleneck else 16
    total = 9 * in_channels * channels
    for block in range(3):
        for _ in range((depth - 4) // (6 if bottleneck else 3)):
            before = channels
            if bottleneck:
                total += 2 * channels + channels * 4 * growth
                before = 4 * growth
            total += 2 * before + 9 * before * growth
            channels += growth
        total += 2 * channels
        if block < 2:
            kept = int(channels * compression)
            total += channels * kept
            channels = kept
    return total, channels


@pytest.mark.parametrize(
    'settings, expected, channels, classes, classifier',
    # With a linear head. Table 2 of arXiv:1608.06993: DenseNet-BC-100-12 has
    # 0.8 M and DenseNet-40-12 1.0 M parameters. The CIFAR tables of
    # github.com/osmr/imgclsmob have the numbers of the BC networks.
    [
        (dict(), (100, 12, True, .5), 342, 10, 769162),
        (dict(), (100, 12, True, .5), 342, 100, 800032),
        (dict(depth=40, bottleneck=False, compression=1),
         (40, 12, False, 1), 448, 10, 1019722),
        (dict(depth=40), (40, 12, True, .5), 132, 100, 188092),
        (dict(depth=40, bottleneck=False, compression=1),
         (40, 12, False, 1), 448, 100, 1060132),
    ])
def test_num_params(settings, expected, channels, classes, classifier):
    net = build(**settings)
    assert net.out_channels == channels
    assert num_params(net) == classifier - (channels + 1) * classes
    assert (num_params(net), channels) == expected_params(*expected)


@pytest.mark.parametrize('settings', [(22, 7, True, .5, 1), (10, 4, True, 1.),
                                      (13, 5, False, .3)])
def test_num_params_of_other_settings(settings):
    names = ('depth', 'growth', 'bottleneck', 'compression', 'in_channels')
    net = build(**dict(zip(names, settings)))
    assert (num_params(net), net.out_channels) == expected_params(*settings)


@pytest.mark.parametrize('size, last', [(32, 8), (48, 12), (18, 4)])
def test_shapes(size, last):
    net = build(depth=22)
    assert isinstance(net, CifarDenseNet)
    feats = net(torch.rand(2, 3, size, size))
    assert isinstance(feats, tuple) and len(feats) == 1
    # 24 -> 60 -> 30 -> 66 -> 33 -> 69 channels
    assert feats[0].shape == (2, 69, last, last)
    assert net.out_channels == 69


@pytest.mark.parametrize('out_indices, shapes', [
    (-1, [(69, 8, 8)]),
    ((0, 1, 2), [(30, 16, 16), (33, 8, 8), (69, 8, 8)]),
    ([2, 0], [(30, 16, 16), (69, 8, 8)]),
])
def test_out_indices(out_indices, shapes):
    feats = build(
        depth=22, out_indices=out_indices)(
            torch.rand(2, 3, 32, 32))
    assert [feat.shape[1:] for feat in feats] == shapes


@pytest.mark.parametrize('bottleneck', [True, False])
def test_against_explicit_forward(bottleneck):
    """Norm, ReLU, convolution and concatenation with the same weights."""
    torch.manual_seed(0)
    net = build(depth=16, growth=3, bottleneck=bottleneck).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(.5, 2)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    layers = [
        module for module in net.stages.modules()
        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d))
    ]

    def norm_relu(x, norm):
        shape = (1, -1, 1, 1)
        x = (x - norm.running_mean.view(shape)) / (
            norm.running_var.view(shape) + 1e-5).sqrt()
        x = x * norm.weight.view(shape) + norm.bias.view(shape)
        return x.clamp(min=0)

    inputs = torch.randn(2, 3, 16, 16)
    x = torch.conv2d(inputs, net.stem.weight, padding=1)
    for block in range(3):
        for _ in range(2 if bottleneck else 4):
            y = x
            for kernel in ((1, 3) if bottleneck else (3, )):
                norm, conv = layers.pop(0), layers.pop(0)
                assert conv.weight.shape[2:] == (kernel, kernel)
                y = torch.conv2d(
                    norm_relu(y, norm), conv.weight, padding=kernel // 2)
            x = torch.cat([x, y], 1)
        x = norm_relu(x, layers.pop(0))
        if block < 2:
            x = torch.conv2d(x, layers.pop(0).weight)
            x = (x[:, :, ::2, ::2] + x[:, :, 1::2, ::2] +
                 x[:, :, ::2, 1::2] + x[:, :, 1::2, 1::2]) / 4
    assert not layers
    torch.testing.assert_close(net(inputs)[0], x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('settings, message', [
    (dict(depth=41), r'^depth of CifarDenseNet must be 6n\+4 .*; got 41$'),
    (dict(depth=19), r'depth .* 6n\+4 with bottleneck=True; got 19$'),
    (dict(depth=41, bottleneck=False), r'depth .* 3n\+4 .*False; got 41$'),
    (dict(depth=4), 'depth .* integer of at least 10; got 4$'),
    (dict(depth=4, bottleneck=False), 'depth .* of at least 7; got 4$'),
    (dict(growth=0), 'growth .* integer of at least 1; got 0$'),
    (dict(growth=2.5), 'growth .* integer of at least 1; got 2.5$'),
    (dict(bottleneck='yes'), '^bottleneck of CifarDenseNet must be one of '
     "False, True; got 'yes'$"),
    (dict(bottleneck=1), 'bottleneck .* one of False, True; got 1$'),
    (dict(compression=0), 'compression .* greater than 0; got 0$'),
    (dict(compression=1.5), 'compression .* at most 1; got 1.5$'),
    (dict(compression='half'), "compression .* number .*; got 'half'$"),
    (dict(depth=10, compression=.01), 'compression .* 36 channels .* got 0$'),
    (dict(drop_rate=-.1), 'drop_rate .* of at least 0; got -0.1$'),
    (dict(drop_rate=1), 'drop_rate .* less than 1; got 1$'),
    (dict(in_channels=0), 'in_channels .* of at least 1; got 0$'),
    (dict(out_indices=3), 'out_indices .* from -3 to 2; got 3$'),
    (dict(norm_cfg=dict(num_groups=2)), 'norm_cfg of CifarDenseNet .* got'),
])
def test_refused(settings, message):
    with pytest.raises(ConfigError, match=message) as info:
        build(**settings)
    assert '\n' not in str(info.value)


def test_backward_reaches_every_parameter():
    torch.manual_seed(0)
    net = build(depth=22)
    out = net(torch.rand(4, 3, 32, 32))[-1]
    (out * torch.randn_like(out)).sum().backward()
    for name, param in net.named_parameters():
        assert param.grad is not None and param.grad.any(), name


def test_drop_rate():
    torch.manual_seed(0)
    net = build(depth=10, drop_rate=.2)
    drops = [m for m in net.modules() if isinstance(m, nn.Dropout)]
    convs = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    # the paper's rule: after every convolution but the first
    assert len(drops) == len(convs) - 1
    assert all(drop.p == .2 for drop in drops)

    inputs = torch.rand(4, 3, 16, 16)
    plain = build(depth=10)
    plain.load_state_dict(net.state_dict())
    assert not torch.equal(net(inputs)[0], plain(inputs)[0])
    plain.load_state_dict(net.state_dict())
    assert torch.equal(net.eval()(inputs)[0], plain.eval()(inputs)[0])


def test_init_weights():
    torch.manual_seed(0)
    net = build(depth=22, growth=16)
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


def test_mode_can_be_chained():
    net = build(depth=10)
    assert net.eval() is net and not net.stages[0].training
    assert net.train() is net and net.stages[0].training


def test_in_image_classifier():
    model = MMPRETRAIN_MODELS.build(
        dict(
            type='ImageClassifier',
            backbone=dict(type='mcod_plugin.CifarDenseNet'),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=100,
                      in_channels=342)))
    assert num_params(model) == 800032
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 100)
