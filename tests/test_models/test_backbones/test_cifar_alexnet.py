import pytest
import torch
import torch.nn as nn
from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS

from mcod_plugin.errors import ConfigError
from mcod_plugin.models.backbones import CifarAlexNet
from mcod_plugin.registry import MODELS


def build(**kwargs):
    return MODELS.build(dict(type='mcod_plugin.CifarAlexNet', **kwargs))


def num_params(module):
    return sum(param.numel() for param in module.parameters())


def expected_params(channels=(64, 192, 384, 256, 256), stem=11, before=3):
    """Weights and biases of five convolutions."""
    total = 0
    for after, kernel in zip(channels, (stem, 5, 3, 3, 3)):
        total += before * after * kernel**2 + after
        before = after
    return total


def test_num_params():
    # without the linear head of 256 x 100 + 100 = 25700
    assert num_params(build()) == 2495396 - 25700 == expected_params()
    # The table of github.com/bearpaw/pytorch-classification, which is for
    # ten classes, has 2.47 M.
    assert (num_params(build()) + 2570) / 1e6 == pytest.approx(2.47, abs=.005)


@pytest.mark.parametrize('settings, expected', [
    (dict(stem_kernel=3), dict(stem=3)),
    (dict(in_channels=1), dict(before=1)),
    (dict(width=16), dict(channels=(16, 48, 96, 64, 64))),
    (dict(width=5), dict(channels=(5, 15, 30, 20, 20))),
])
def test_num_params_of_other_settings(settings, expected):
    assert num_params(build(**settings)) == expected_params(**expected)


@pytest.mark.parametrize('settings, size, last', [
    (dict(), 32, 1),
    (dict(), 64, 2),
    (dict(stem_kernel=3, stem_stride=1), 32, 4),
    (dict(stem_kernel=3, stem_stride=1), 8, 1),
    (dict(stem_kernel=5, stem_stride=2), 32, 2),
])
def test_shapes(settings, size, last):
    net = build(width=8, **settings)
    assert isinstance(net, CifarAlexNet)
    feats = net(torch.rand(2, 3, size, size))
    assert isinstance(feats, tuple) and len(feats) == 1
    assert feats[0].shape == (2, 32, last, last)
    assert net.out_channels == 32


@pytest.mark.parametrize('out_indices, shapes', [
    (-1, [(32, 1, 1)]),
    ((0, 1, 2), [(8, 4, 4), (24, 2, 2), (32, 1, 1)]),
    ([2, 0], [(8, 4, 4), (32, 1, 1)]),
])
def test_out_indices(out_indices, shapes):
    feats = build(
        width=8, out_indices=out_indices)(
            torch.rand(2, 3, 32, 32))
    assert [feat.shape[1:] for feat in feats] == shapes


def test_against_explicit_layers():
    """The layers of the literature, written out, with the same weights."""
    torch.manual_seed(0)
    reference = nn.Sequential(
        nn.Conv2d(3, 64, 11, 4, 5), nn.ReLU(), nn.MaxPool2d(2, 2),
        nn.Conv2d(64, 192, 5, 1, 2), nn.ReLU(), nn.MaxPool2d(2, 2),
        nn.Conv2d(192, 384, 3, 1, 1), nn.ReLU(), nn.Conv2d(384, 256, 3, 1, 1),
        nn.ReLU(), nn.Conv2d(256, 256, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2, 2))
    net = build()
    for param, source in zip(net.parameters(), reference.parameters()):
        assert param.shape == source.shape
        param.data.copy_(source)
    inputs = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(net(inputs)[0], reference(inputs))


@pytest.mark.parametrize('settings, message', [
    (dict(width=0), '^width of CifarAlexNet .* of at least 1; got 0$'),
    (dict(width='64'), "width .* integer of at least 1; got '64'$"),
    (dict(stem_kernel=4), 'stem_kernel .* odd number; got 4$'),
    (dict(stem_kernel=0), 'stem_kernel .* of at least 1; got 0$'),
    (dict(stem_stride=0), 'stem_stride .* of at least 1; got 0$'),
    (dict(stem_stride=1.5), 'stem_stride .* integer .*; got 1.5$'),
    (dict(in_channels=-3), 'in_channels .* of at least 1; got -3$'),
    (dict(out_indices=3), 'out_indices .* from -3 to 2; got 3$'),
])
def test_refused(settings, message):
    with pytest.raises(ConfigError, match=message) as info:
        build(**settings)
    assert '\n' not in str(info.value)


@pytest.mark.parametrize(
    'stem', [dict(), dict(stem_kernel=3, stem_stride=1)])
def test_backward_reaches_every_parameter(stem):
    torch.manual_seed(0)
    net = build(width=16, **stem)
    net.init_weights()
    out = net(torch.rand(4, 3, 32, 32))[-1]
    (out * torch.randn_like(out)).sum().backward()
    for name, param in net.named_parameters():
        assert param.grad is not None and param.grad.any(), name


def test_init_weights():
    torch.manual_seed(0)
    net = build(width=32)
    for param in net.parameters():
        nn.init.constant_(param, 7)
    net.init_weights()
    convs = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert len(convs) == 5
    for conv in convs:
        # Kaiming normal: variance 2 / (incoming connections)
        std = (2 / (conv.in_channels * conv.kernel_size[0]**2))**.5
        assert conv.weight.std().item() == pytest.approx(std, rel=.1)
        assert abs(conv.weight.mean().item()) < .1 * std
        assert (conv.bias == 0).all()


@pytest.mark.parametrize(
    'stem', [dict(), dict(stem_kernel=3, stem_stride=1)])
def test_initial_weights_keep_the_signal(stem):
    """Unit noise comes out with a standard deviation of about a half, or two
    with the fine stem; scaled by ``fan_out``, with 0.05 or 0.2."""
    torch.manual_seed(0)
    net = build(**stem)
    net.init_weights()
    with torch.no_grad():
        out = net(torch.randn(16, 3, 32, 32))[-1]
    assert .3 < out.std().item() < 3


def test_mode_can_be_chained():
    net = build(width=4)
    assert net.eval() is net and not net.stages[0].training
    assert net.train() is net and net.stages[0].training


def test_in_image_classifier():
    model = MMPRETRAIN_MODELS.build(
        dict(
            type='ImageClassifier',
            backbone=dict(type='mcod_plugin.CifarAlexNet'),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=100,
                      in_channels=256)))
    assert num_params(model) == 2495396
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 100)
