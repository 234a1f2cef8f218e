import copy
import os
import subprocess
import sys

import pytest
import torch
import torch.nn as nn
from mmengine.model import BaseModule
from mmpretrain.structures import DataSample

from mcod_plugin.errors import ConfigError
from mcod_plugin.models.utils import memory_format
from mcod_plugin.models.utils.memory_format import (MEMORY_FORMATS,
                                                    choose_memory_format)
from mcod_plugin.registry import MODELS
from mcod_plugin.structures import BatchDataSample

LAST, FIRST = torch.channels_last, torch.contiguous_format


@MODELS.register_module()
class ViewBackbone(BaseModule):
    """Takes for granted that channels come before rows in memory."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 4, 3, 4), nn.ReLU(), nn.Conv2d(4, 4, 3, 2))

    def forward(self, inputs):
        return (self.layers(inputs).view(len(inputs), -1), )


@MODELS.register_module()
class ReversingBackbone(ViewBackbone):
    """Takes it for granted in its backward only."""

    class Reverse(torch.autograd.Function):

        @staticmethod
        def forward(ctx, feats):
            return feats * 1

        @staticmethod
        def backward(ctx, grad):
            return grad.view(len(grad), -1).flip(1).view(grad.shape)

    def forward(self, inputs):
        feats = self.Reverse.apply(self.layers[:2](inputs))
        return (self.layers[2](feats).flatten(1), )


@MODELS.register_module()
class LinearBackbone(BaseModule):
    """Convolves nothing."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3 * 32 * 32, 6)

    def forward(self, inputs):
        return (self.layer(inputs.flatten(1)), )


@MODELS.register_module()
class StrictBackbone(ViewBackbone):
    """Serves one size only."""

    def forward(self, inputs):
        assert inputs.shape[2:] == (48, 48)
        return (self.layers(inputs).flatten(1), )


@MODELS.register_module()
class VolumeBackbone(StrictBackbone):
    """Has a parameter that cannot be in the format."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1, 1, 4, 1, 1))

    def forward(self, inputs):
        feats = self.layers(inputs)[None] * self.scale
        return (feats[0].flatten(1), )


def branch(type, **backbone):
    return dict(
        backbone=dict(type=type, **backbone),
        head=dict(type='LinearClsHead', num_classes=5))


BRANCHES = dict(
    resnet=branch('mcod_plugin.CifarResNet', depth=8, width=16),
    # Its shortcuts are what oneDNN fails on.
    narrow=branch('mcod_plugin.CifarResNet', depth=8, width=4),
    alexnet=branch('mcod_plugin.CifarAlexNet', width=4),
    vgg=branch('mcod_plugin.CifarVGG', depth=11, width=4),
    densenet=branch('mcod_plugin.CifarDenseNet', depth=10, growth=4),
    convnext=branch(
        'TIMMBackbone',
        model_name='convnext_atto',
        depths=(1, 1, 1, 1),
        dims=(8, 8, 16, 24)),
    vit=branch(
        'TIMMBackbone',
        model_name='vit_tiny_patch16_224',
        img_size=32,
        patch_size=16,
        embed_dim=16,
        depth=1,
        num_heads=2),
    view=branch('mcod_plugin.ViewBackbone'),
    reversing=branch('mcod_plugin.ReversingBackbone'),
    linear=branch('mcod_plugin.LinearBackbone'))
# Those that take part in either format.
BOTH = ['resnet', 'alexnet', 'vgg', 'densenet', 'convnext', 'vit']
AUTO = dict(
    resnet=LAST,
    narrow=FIRST,
    alexnet=LAST,
    vgg=LAST,
    densenet=LAST,
    convnext=LAST,
    vit=FIRST,
    view=FIRST,
    reversing=FIRST,
    linear=FIRST)


def make_cohort(names=BOTH, seed=0, init=True, **kwargs):
    torch.manual_seed(seed)
    cohort = MODELS.build(
        dict(
            type='mcod_plugin.MultiBackboneClassifier',
            branches={name: BRANCHES[name]
                      for name in names},
            **{
                'input_size': 32,
                **kwargs
            }))
    if init:
        cohort.init_weights()
    return cohort


def make_batch(num=6):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(
        num, 3, 32, 32, generator=generator, dtype=torch.double)
    return inputs, [DataSample().set_gt_label(i % 5) for i in range(num)]


def refusal(**kwargs):
    with pytest.raises(ConfigError) as info:
        make_cohort(**kwargs)
    assert '\n' not in str(info.value)
    return str(info.value)


def assert_in_format(module, layout):
    """Also those that no convolution has: of one with 1x1 windows, say, both
    formats look the same."""
    for key, value in module.state_dict().items():
        if value.ndim == 4:
            assert value.is_contiguous(memory_format=layout), key


def assert_same_values(module, other):
    state_dict = other.state_dict()
    assert list(module.state_dict()) == list(state_dict)
    for key, value in module.state_dict().items():
        assert torch.equal(value, state_dict[key]), key


# The choice


@pytest.mark.parametrize('init', [False, True])
def test_auto(init):
    cohort = make_cohort(AUTO, init=init)
    assert cohort.memory_formats == AUTO
    for name, layout in AUTO.items():
        assert_in_format(cohort.branches[name], layout)
    conv = cohort.branches['resnet'].backbone.stem[0].weight
    assert conv.stride() != conv.contiguous().stride()


def test_by_name():
    for setting, layout in dict(channels_last=LAST, contiguous=FIRST).items():
        cohort = make_cohort(memory_format=setting)
        assert cohort.memory_formats == dict.fromkeys(BOTH, layout)
        assert_in_format(cohort, layout)


def test_contiguous_serves_all():
    cohort = make_cohort(AUTO, memory_format='contiguous')
    assert set(cohort.memory_formats.values()) == {FIRST}
    assert cohort(make_batch()[0].float()).shape == (6, 5)


@pytest.mark.parametrize('name, reason', [
    ('view', 'view size is not compatible with input tensor'),
    ('reversing', 'view size is not compatible with input tensor'),
    ('narrow', 'backbone.stages.1.0.downsample.0 is a 1x1 convolution with a '
     'stride and fewer than 16 input channels'),
    ('linear', 'it has no 2-d convolution'),
])
def test_branch_that_cannot(name, reason):
    message = refusal(names=['resnet', name], memory_format='channels_last')
    assert message.startswith('model.memory_format is channels_last, but '
                              f'model.branches.{name} cannot: {reason}')
    assert message.endswith('; use auto or contiguous')


@pytest.mark.parametrize('given', ['channels_first', '', None, True, 1])
def test_unknown(given):
    assert refusal(memory_format=given) == (
        'model.memory_format must be one of auto, channels_last, contiguous; '
        f'got {given!r}')


@pytest.mark.parametrize('name, layout', [('StrictBackbone', LAST),
                                          ('VolumeBackbone', FIRST)])
def test_trying_is_no_mistake(name, layout):
    """It is tried at the size of the branch. Whatever the attempt raises, the
    network stays as it was."""
    net = dict(branch(f'mcod_plugin.{name}'), input_size=48)
    cohort = MODELS.build(
        dict(
            type='mcod_plugin.MultiBackboneClassifier',
            branches=dict(net=net),
            input_size=32))
    assert cohort.memory_formats == dict(net=layout)
    assert_in_format(cohort, layout)
    assert cohort(torch.zeros(2, 3, 32, 32)).shape == (2, 5)


def test_trying_leaves_no_trace():
    """Neither in the mode nor in the statistics of norm layers."""
    cohort = make_cohort(init=False)
    assert all(module.training for module in cohort.modules())
    counts = [
        value for key, value in cohort.state_dict().items()
        if key.endswith('num_batches_tracked')
    ]
    assert counts and not any(counts)


@pytest.mark.parametrize('layer, layout', [
    ((32, 32, 1, 2), LAST),
    ((32, 32, 1, 2, 0, 1, 2), LAST),
    ((32, 32, 1, 2, 0, 1, 4), FIRST),
    ((32, 32, 1, (1, 2)), LAST),
    ((32, 32, 1, (1, 4), 0, 1, 32), FIRST),
    ((32, 32, 1, 1, 0, 1, 32), LAST),
    ((32, 32, 3, 2, 1, 1, 32), LAST),
])
def test_narrow_strided_convolution(layer, layout):
    net = nn.Sequential(
        nn.Conv2d(3, 32, 1), nn.Conv2d(*layer), nn.AdaptiveAvgPool2d(1),
        nn.Flatten())
    assert choose_memory_format('net', 'auto', net, (2, 3, 8, 8)) is layout
    assert_in_format(net, layout)


def test_narrow_on_an_accelerator(monkeypatch):
    """It may be asked for where oneDNN does not compute."""
    monkeypatch.setattr(memory_format, 'get_device', lambda: 'cuda')
    cohort = make_cohort(['narrow'], memory_format='channels_last')
    assert cohort.memory_formats == dict(narrow=LAST)
    # A run is the same on each machine.
    assert make_cohort(['narrow']).memory_formats == dict(narrow=FIRST)


STEP = """
import sys
import torch
from mmpretrain.structures import DataSample
from mcod_plugin.registry import MODELS


def gradients(memory_format):
    torch.manual_seed(0)
    ours = dict(type='mcod_plugin.CifarResNet', depth=8, width=4)
    theirs = dict(type='mmpretrain.ResNet_CIFAR', depth=18, base_channels=4,
                  stem_channels=4)
    cohort = MODELS.build(dict(
        type='mcod_plugin.MultiBackboneClassifier',
        memory_format=memory_format,
        branches=dict(
            (name, dict(backbone=backbone, head=dict(
                type='mmpretrain.LinearClsHead', num_classes=5)))
            for name, backbone in (('ours', ours), ('theirs', theirs)))))
    cohort.init_weights()
    samples = [DataSample().set_gt_label(i % 5) for i in range(16)]
    for _ in range(3):
        cohort.zero_grad()
        losses = cohort(torch.randn(16, 3, 32, 32), samples, mode='loss')
        cohort.parse_losses(losses)[0].backward()
    return {key: value.grad for key, value in cohort.named_parameters()}


torch.set_num_threads(int(sys.argv[1]))
expected = gradients('contiguous')
for key, value in gradients('auto').items():
    torch.testing.assert_close(value, expected[key], rtol=1e-3, atol=1e-5)
"""


@pytest.mark.parametrize('threads', [1, 2])
@pytest.mark.parametrize('isa', ['AVX2', 'ALL'])
def test_gradients_of_narrow_branches(isa, threads):
    """By whatever instructions oneDNN computes, and in a process of its own,
    since they have ended it."""
    result = subprocess.run(
        [sys.executable, '-c', STEP, str(threads)],
        env={
            **os.environ, 'ONEDNN_MAX_CPU_ISA': isa
        },
        capture_output=True,
        text=True,
        timeout=120)
    assert result.returncode == 0, result.stderr


# What it must not change


@pytest.mark.parametrize('init', [False, True])
def test_first_weights(init):
    contiguous, *others = [
        make_cohort(init=init, memory_format=setting)
        for setting in ('contiguous', 'channels_last', 'auto')
    ]
    for cohort in others:
        assert_same_values(cohort, contiguous)


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('setting', ['auto', 'channels_last'])
def test_losses_and_gradients(setting, training):
    results = []
    for wanted in ('contiguous', setting):
        cohort = make_cohort(memory_format=wanted).double()
        cohort.train(training)
        cohort.kd_weight = 1.
        losses = cohort(*make_batch(), mode='loss')
        total, _ = cohort.parse_losses(losses)
        total.backward()
        gradients = {
            key: value.grad
            for key, value in cohort.named_parameters()
        }
        # Optimizers go through both as they lie in memory.
        for key, value in cohort.named_parameters():
            assert value.grad.stride() == value.stride(), key
        results.append((losses, gradients, cohort.state_dict()))
    for expected, found in zip(*results):
        assert expected.keys() == found.keys()
        for key, value in expected.items():
            torch.testing.assert_close(
                found[key], value, rtol=1e-9, atol=1e-9, msg=key)


@pytest.mark.parametrize('setting', MEMORY_FORMATS)
def test_format_of_the_images(setting):
    """It is all the same to the cohort."""
    cohort = make_cohort(memory_format=setting).double().eval()
    inputs, samples = make_batch()
    batch = BatchDataSample(gt_label=torch.arange(6) % 5)
    images = inputs.contiguous(memory_format=LAST)
    assert images.stride() != inputs.stride()
    for mode in ('tensor', 'loss'):
        one = cohort(inputs, samples, mode=mode)
        other = cohort(images, batch, mode=mode)
        if mode == 'tensor':
            one, other = dict(logits=one), dict(logits=other)
        for key, value in one.items():
            assert torch.equal(value, other[key]), key
    for stage in ('backbone', 'neck', 'pre_logits'):
        one, other = (
            cohort.extract_feat(given, stage) for given in (inputs, images))
        for name in BOTH:
            assert torch.equal(one[name][-1], other[name][-1])


def test_images_for_a_branch_that_cannot():
    """It gets them as it wants them, though the others do not."""
    cohort = make_cohort(['view', 'resnet']).double()
    images = make_batch()[0].contiguous(memory_format=LAST)
    with pytest.raises(RuntimeError, match='view size'):
        cohort.branches['view'](images)
    assert cohort(images).shape == (6, 5)
    assert cohort.extract_feat(images)['view'][-1].shape == (6, 36)


# Checkpoints and copies


@pytest.mark.parametrize('target', MEMORY_FORMATS)
@pytest.mark.parametrize('source', MEMORY_FORMATS)
def test_checkpoint_of_another_format(tmp_path, source, target):
    names = ['resnet', 'convnext', 'vit']
    saved = make_cohort(names, seed=1, memory_format=source)
    torch.save(saved.state_dict(), tmp_path / 'cohort.pth')
    cohort = make_cohort(names, seed=2, memory_format=target)
    layouts = [value.stride() for value in cohort.parameters()]
    cohort.load_state_dict(
        torch.load(tmp_path / 'cohort.pth', weights_only=True))
    assert_same_values(cohort, saved)
    assert [value.stride() for value in cohort.parameters()] == layouts


def test_deepcopy():
    cohort = make_cohort(seed=1)
    copied = copy.deepcopy(cohort)
    assert copied.memory_formats == cohort.memory_formats
    assert_same_values(copied, cohort)
    assert_in_format(copied.branches['resnet'], LAST)
    inputs = make_batch()[0].float()
    assert torch.equal(copied.eval()(inputs), cohort.eval()(inputs))
