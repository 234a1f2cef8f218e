"""Branches with settings of their own are as they would be alone."""
import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.optim import OptimWrapper
from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS

from mcod_plugin.errors import ConfigError
from mcod_plugin.models.losses import discontinuous_kd_loss
from mcod_plugin.registry import MODELS
from mcod_plugin.structures import BatchDataSample

MEAN, STD = [125.3, 123., 113.9], [63., 62.1, 66.7]
OTHER = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 30.])


def net(in_channels=3, depth=8, **settings):
    return dict(
        backbone=dict(
            type='mcod_plugin.CifarResNet',
            depth=depth,
            width=4,
            in_channels=in_channels),
        head=dict(type='LinearClsHead', num_classes=5),
        **settings)


def resnet(**settings):
    return net(depth=14, **settings)


def make(data=None,
         memory_format='auto',
         train_cfg=None,
         teacher=None,
         **branches):
    torch.manual_seed(0)
    data = dict(mean=MEAN, std=STD) if data is None else data
    cohort = MODELS.build(
        dict(
            type='mcod_plugin.MultiBackboneClassifier',
            branches=copy.deepcopy(branches),
            data_preprocessor=data,
            teacher=dict(
                type='mcod_plugin.EnsembleTeacher', **(teacher or {})),
            train_cfg=train_cfg,
            memory_format=memory_format,
            input_size=32))
    cohort.init_weights()
    return cohort


def alone(cohort, name='net', **preprocessor):
    """The branch as the toolbox has it, with a preprocessor of its own."""
    cfg = dict(net=net, resnet=resnet)[name]()
    cfg['head']['in_channels'] = 16
    classifier = MMPRETRAIN_MODELS.build(
        dict(
            type='ImageClassifier',
            neck=dict(type='GlobalAveragePooling'),
            data_preprocessor=preprocessor,
            **cfg))
    classifier.load_state_dict(cohort.branches[name].state_dict())
    return classifier


def raw(size=32, channels=3, num=4):
    generator = torch.Generator().manual_seed(0)
    shape = (num, channels, size, size)
    return torch.randint(
        0, 256, shape, generator=generator, dtype=torch.uint8)


def prepare(model, images, **kwargs):
    return model.data_preprocessor(dict(inputs=images), **kwargs)['inputs']


def close(found, expected, tolerance=1e-5):
    torch.testing.assert_close(
        found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize('memory_format', ['contiguous', 'auto'])
@pytest.mark.parametrize('to_rgb', [False, True])
@pytest.mark.parametrize('normalised', [False, True])
def test_own_mean_and_std(normalised, to_rgb, memory_format):
    data = dict(mean=MEAN, std=STD) if normalised else {}
    cohort = make(
        dict(data, to_rgb=to_rgb),
        memory_format,
        net=net(**OTHER),
        resnet=resnet()).eval()
    own = alone(cohort, to_rgb=to_rgb, **OTHER).eval()
    other = alone(cohort, 'resnet', to_rgb=to_rgb, **data).eval()
    inputs = prepare(cohort, raw())
    images = cohort.branch_images(inputs)
    close(images['net'], prepare(own, raw()))
    assert torch.equal(images['resnet'], prepare(other, raw()))
    logits = cohort.branch_logits(inputs)
    close(logits['net'], own(prepare(own, raw())), 1e-4)
    close(logits['resnet'], other(prepare(other, raw())), 1e-4)
    feats = cohort.extract_feat(inputs)['net'][-1]
    close(feats, own.extract_feat(prepare(own, raw()))[-1], 1e-4)
    # It matters.
    assert not torch.allclose(
        logits['net'], cohort.branches['net'](inputs), atol=1e-3)
    scores = torch.stack([
        sample.pred_score_net for sample in cohort(inputs, mode='predict')
    ])
    close(scores, logits['net'].softmax(1))
    close(cohort(inputs), sum(logits.values()) / 2)


@pytest.mark.parametrize('settings', [{}, OTHER])
@pytest.mark.parametrize('size', [16, 48, (40, 24)])
def test_own_input_size(size, settings):
    cohort = make(net=net(input_size=size, **settings), resnet=resnet()).eval()
    own = alone(cohort, **(settings or dict(mean=MEAN, std=STD))).eval()
    shape = size if isinstance(size, tuple) else (size, size)
    resized = F.interpolate(
        raw().double(), shape, mode='bilinear', antialias=True).float()
    inputs = prepare(cohort, raw())
    logits = cohort.branch_logits(inputs)
    close(logits['net'], own(prepare(own, resized)), 1e-4)
    close(logits['resnet'], cohort.branches['resnet'](inputs), 1e-4)
    maps = cohort.extract_feat(inputs, 'backbone')['net'][-1]
    assert maps.shape == own.extract_feat(resized, 'backbone')[-1].shape


@pytest.mark.parametrize('augment', [
    dict(type='Mixup', alpha=1.),
    dict(type='CutMix', alpha=1.),
    dict(type='ResizeMix', alpha=1.)
])
def test_mixed_images(augment):
    """The same mixture, of images that are normalised otherwise."""
    train_cfg = dict(augments=augment)
    cohort = make(train_cfg=train_cfg, net=net(**OTHER), resnet=resnet())
    own = alone(
        cohort, num_classes=5, batch_augments=dict(train_cfg), **OTHER)
    found = []
    for model in (cohort, own):
        torch.manual_seed(1)
        np.random.seed(1)
        sample = BatchDataSample(gt_label=torch.tensor([0, 3, 1, 4]))
        found.append(
            model.data_preprocessor(
                dict(inputs=raw(), data_samples=sample), True))
    images = cohort.branch_images(found[0]['inputs'])
    close(images['net'], found[1]['inputs'])
    assert not torch.allclose(found[1]['inputs'], prepare(own, raw()))
    losses = cohort(**found[0], mode='loss')
    close(losses['net.loss_ce'], own(**found[1], mode='loss')['loss'])


@pytest.mark.parametrize('pad_value', [0, .5])
def test_padding_is_a_colour(pad_value):
    cohort = make(
        dict(mean=MEAN, std=STD, pad_size_divisor=32, pad_value=pad_value),
        net=net(**OTHER),
        resnet=resnet()).eval()
    own = alone(cohort, **OTHER).eval()
    colour = torch.tensor(MEAN) + pad_value * torch.tensor(STD)
    padded = colour.view(3, 1, 1).repeat(4, 1, 32, 32)
    padded[..., :27, :27] = raw(27)
    images = cohort.branch_images(prepare(cohort, raw(27)))
    assert images['net'].shape == (4, 3, 32, 32)
    close(images['net'], prepare(own, padded))


def test_grey_images():
    cohort = make(
        dict(mean=[128.], std=[64.]),
        net=net(1, mean=[33.3], std=[78.6]),
        other=net(1)).eval()
    inputs = prepare(cohort, raw(channels=1))
    close(
        cohort.branch_images(inputs)['net'],
        (raw(channels=1).float() - 33.3) / 78.6)
    with pytest.raises(ConfigError, match='net.mean must be a list of 1 num'):
        make(dict(mean=[128.], std=[64.]), net=net(1, **OTHER), other=net(1))


def test_trains_as_alone():
    """Without distillation; beyond rounding."""
    cohort = make(net=net(input_size=24, **OTHER), resnet=resnet())
    own = alone(cohort, **OTHER)
    before = copy.deepcopy(own.state_dict())
    resized = F.interpolate(
        raw().double(), (24, 24), mode='bilinear', antialias=True).float()
    wrappers = [
        OptimWrapper(torch.optim.SGD(model.parameters(), lr=.1, momentum=.9))
        for model in (cohort, own)
    ]
    for _ in range(3):
        samples = [
            BatchDataSample(gt_label=torch.tensor([0, 3, 1, 4]))
            for _ in range(2)
        ]
        logs = cohort.train_step(
            dict(inputs=raw(), data_samples=samples[0]), wrappers[0])
        expected = own.train_step(
            dict(inputs=resized, data_samples=samples[1]), wrappers[1])
        close(logs['net.loss_ce'], expected['loss'], 1e-4)
    close(
        dict(cohort.branches['net'].state_dict()), dict(own.state_dict()),
        1e-4)
    assert not torch.equal(own.head.fc.weight, before['head.fc.weight'])


def test_what_is_off_costs_nothing():
    cohort = make(memory_format='contiguous', net=net(), resnet=resnet())
    inputs = prepare(cohort, raw())
    for images in cohort.branch_images(inputs).values():
        assert images.data_ptr() == inputs.data_ptr()
    own = [value for key, value in cohort.named_buffers() if 'images' in key]
    assert own == [] and list(cohort.branch_images.parameters()) == []


def test_settings_are_told():
    cohort = make(
        net=net(input_size=(24, 48), lr_mult=.5, **OTHER),
        resnet=resnet(frozen=True))
    settings = cohort.branch_settings['net']
    assert settings.mean == tuple(OTHER['mean'])
    assert settings.std == tuple(OTHER['std'])
    assert settings.input_size == (24, 48) and settings.lr_mult == .5
    settings = cohort.branch_settings['resnet']
    assert (settings.mean, settings.std) == (tuple(MEAN), tuple(STD))
    assert settings.input_size == (32, 32) and settings.frozen
    plain = make({}, net=net(), other=net(**OTHER)).branch_settings
    assert plain['net'].mean is plain['net'].std is None
    assert plain['other'].mean == tuple(OTHER['mean'])


def test_states_have_no_settings():
    cohort = make(net=net(**OTHER, lr_mult=2.), resnet=resnet())
    plain = make(net=net(), resnet=resnet())
    assert list(cohort.state_dict()) == list(plain.state_dict())
    plain.load_state_dict(cohort.state_dict())
    for key, value in plain.state_dict().items():
        assert torch.equal(value, cohort.state_dict()[key])


def test_copies_see_the_same():
    cohort = make(net=net(input_size=24, **OTHER), resnet=resnet()).eval()
    inputs = prepare(cohort, raw())
    assert torch.equal(copy.deepcopy(cohort)(inputs), cohort(inputs))


@pytest.mark.parametrize('kd_weight', [0., 1.5])
def test_loss_weight(kd_weight):
    """A factor of all losses of a branch, and of nothing else."""
    cal_acc = net(loss_weight=2.5)
    cal_acc['head']['cal_acc'] = True
    cohort = make(net=cal_acc, resnet=resnet(loss_weight=.5), other=net())
    plain = make(net=net(), resnet=resnet(), other=net())
    plain.load_state_dict(cohort.state_dict())
    samples = cohort.data_preprocessor(
        dict(
            inputs=raw(),
            data_samples=BatchDataSample(
                gt_label=torch.tensor([0, 3, 1, 4]))))
    found = []
    for model in (cohort, plain):
        model.double().kd_weight = kd_weight
        losses = model(
            samples['inputs'].double(), samples['data_samples'], mode='loss')
        loss, _ = model.parse_losses(losses)
        loss.backward()
        found.append(losses)
    losses, expected = found
    assert losses.pop('net.accuracy_top-1')[0] in (0, 25, 50, 75, 100)
    assert losses.keys() == expected.keys()
    assert ('net.loss_kd' in losses) == (kd_weight > 0)
    weights = dict(net=2.5, resnet=.5, other=1.)
    for key, value in expected.items():
        weight = weights.get(key.partition('.')[0], 1.)
        close(losses[key], weight * value, 1e-12)
    for name, weight in weights.items():
        for one, other in zip(cohort.branches[name].parameters(),
                              plain.branches[name].parameters()):
            close(one.grad, weight * other.grad, 1e-9)


@pytest.mark.parametrize('settings, words', [
    (dict(mean=[1., 2.], std=[1., 2.]), '.mean must be a list of 3 numbers'),
    (dict(loss_weight=0), '.loss_weight must be a finite number greater'),
    (dict(lr_mul=2.), "unexpected keyword argument 'lr_mul'"),
])
def test_refused(settings, words):
    with pytest.raises(ConfigError, match=f'^model.branches.net.*{words}'):
        make(net=net(**settings), resnet=resnet())


# Views of their own


def views_of(cohort):
    """A batch whose views differ, as the preprocessor gives it."""
    return cohort.data_preprocessor(
        dict(
            inputs=dict(resnet=raw().flip(3), net=raw().roll(2, 2)),
            data_samples=BatchDataSample(
                gt_label=torch.tensor([0, 3, 1, 4]))), True)


@pytest.mark.parametrize('kd_weight', [0., 1.5])
@pytest.mark.parametrize('teacher', [{}, dict(ema=.9)])
def test_each_branch_learns_from_its_view(teacher, kd_weight):
    """Losses and gradients, by hand; the averages see what their branch
    sees."""
    cohort = make(
        teacher=teacher, net=net(input_size=24, **OTHER),
        resnet=resnet(loss_weight=2.)).double()
    cohort.kd_weight = kd_weight
    batch = views_of(cohort)
    inputs = {name: x.double() for name, x in batch['inputs'].items()}
    branches = copy.deepcopy(cohort.branches)
    averages = copy.deepcopy(cohort.branches).eval()
    losses = cohort(inputs, batch['data_samples'], mode='loss')
    total, _ = cohort.parse_losses(losses)
    total.backward()

    images = {
        name: cohort.branch_images(inputs[name])[name]
        for name in cohort.branches
    }
    logits = {name: branches[name](images[name]) for name in images}
    targets = logits
    if teacher:
        targets = {
            name: branch(images[name])
            for name, branch in averages.items()
        }
    target = sum(targets.values()).detach() / 2
    for name, weight in dict(net=1., resnet=2.).items():
        expected = weight * F.cross_entropy(
            logits[name], batch['data_samples'].fields['gt_label'])
        close(losses[f'{name}.loss_ce'], expected, 1e-10)
        if kd_weight:
            distance = weight * kd_weight * discontinuous_kd_loss(
                logits[name], target, cohort.distill.temperature)
            close(losses[f'{name}.loss_kd'], distance, 1e-10)
            expected = expected + distance
        expected.backward()
        for one, other in zip(cohort.branches[name].parameters(),
                              branches[name].parameters()):
            close(one.grad, other.grad, 1e-9)


def test_the_same_view_for_all_is_no_view():
    cohort = make(net=net(**OTHER), resnet=resnet()).double()
    cohort.kd_weight = 1.
    samples = BatchDataSample(gt_label=torch.tensor([0, 3, 1, 4]))
    images = prepare(cohort, raw()).double()
    one, other = (
        cohort(inputs, samples, mode='loss')
        for inputs in (images, dict(resnet=images, net=images)))
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert torch.equal(other[key], value), key


@pytest.mark.parametrize('mode', ['predict', 'tensor'])
def test_predictions_are_of_one_image_for_all(mode):
    cohort = make(net=net(), resnet=resnet())
    inputs = views_of(cohort)['inputs']
    with pytest.raises(ConfigError, match='a prediction takes one tensor of '):
        cohort(inputs, mode=mode)
    with pytest.raises(ConfigError, match='validation and test take one ten'):
        cohort.val_step(dict(inputs=dict(net=raw(), resnet=raw())))
    with pytest.raises(ConfigError, match='must be of net, resnet; got net$'):
        cohort.loss(dict(net=inputs['net']), None)
