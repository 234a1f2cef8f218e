import copy
import re

import pytest
import timm
import torch
import torch.nn as nn
from mmengine.model import BaseModule, PretrainedInit

from mcod_plugin.errors import ConfigError
from mcod_plugin.models.utils.pretrained import take_pretrained
from mcod_plugin.models.utils.timm_network import check_pretrained
from mcod_plugin.registry import MODELS

HEAD = dict(type='LinearClsHead', num_classes=5)
VIT = dict(
    model_name='vit_tiny_patch16_224',
    img_size=32,
    patch_size=16,
    embed_dim=16,
    depth=1,
    num_heads=2)
TOOLBOX_VIT = dict(
    type='VisionTransformer',
    arch=dict(
        embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=16),
    patch_size=16)


def resnet(depth=8, **backbone):
    return dict(
        backbone=dict(
            type='mcod_plugin.CifarResNet', depth=depth, width=4, **backbone),
        head=dict(HEAD))


def build(seed=0, init_cfg=None, teacher=None, **branches):
    torch.manual_seed(seed)
    return MODELS.build(
        dict(
            type='mcod_plugin.MultiBackboneClassifier',
            branches=copy.deepcopy(branches),
            teacher=teacher,
            input_size=32,
            init_cfg=init_cfg))


def make(seed=0, **kwargs):
    cohort = build(seed, **kwargs)
    cohort.init_weights()
    return cohort


def same(one, other):
    one, other = one.state_dict(), other.state_dict()
    return list(one) == list(other) and all(
        torch.equal(value, other[key]) for key, value in one.items())


@pytest.fixture
def checkpoint(tmp_path):
    """A cohort's, and what it was saved from."""
    cohort = make(7, net=resnet(), deep=resnet(14))
    path = str(tmp_path / 'epoch_2.pth')
    torch.save(dict(state_dict=cohort.state_dict()), path)
    return path, cohort


def pretrained(checkpoint, prefix=None):
    cfg = dict(type='Pretrained', checkpoint=checkpoint)
    return cfg if prefix is None else dict(cfg, prefix=prefix)


def refusal(**branch):
    message = refusal_of(net=branch, other=resnet())
    assert message.startswith('model.branches.net')
    return message


def refusal_of(**kwargs):
    with pytest.raises(ConfigError) as info:
        make(**kwargs)
    assert '\n' not in str(info.value)
    return str(info.value)


def test_a_branch_that_is_trained(checkpoint):
    path, source = checkpoint
    init = pretrained(path, 'branches.net')
    cohort = make(net=dict(resnet(), init_cfg=init), other=resnet())
    assert same(cohort.branches['net'], source.branches['net'])
    assert cohort.frozen == []
    assert all(value.requires_grad for value in cohort.parameters())
    # The others start as they do anyway.
    assert same(cohort.branches['other'],
                make(net=resnet(), other=resnet()).branches['other'])


def test_a_backbone(checkpoint):
    path, source = checkpoint
    init = pretrained(path, 'branches.net.backbone')
    cohort = make(net=resnet(init_cfg=init), other=resnet())
    net, wanted = cohort.branches['net'], source.branches['net']
    assert same(net.backbone, wanted.backbone)
    assert not torch.equal(net.head.fc.weight, wanted.head.fc.weight)


def test_a_backbone_among_other_weights(checkpoint, tmp_path):
    """As of a file of torchvision, which has a classifier as well."""
    weights = checkpoint[1].branches['net'].backbone.state_dict()
    torch.save({**weights, 'fc.weight': torch.ones(2)}, tmp_path / 'a.pth')
    init = pretrained(str(tmp_path / 'a.pth'))
    cohort = make(net=resnet(init_cfg=init), other=resnet())
    assert same(cohort.branches['net'].backbone,
                checkpoint[1].branches['net'].backbone)


def test_the_outer_one_wins(checkpoint):
    path, source = checkpoint
    branch = dict(
        resnet(init_cfg=pretrained(path, 'branches.net.backbone')),
        init_cfg=pretrained(path, 'branches.net'))
    branch['head']['init_cfg'] = [
        dict(type='Constant', layer='Linear', val=3),
        pretrained(path, 'branches.deep.head')
    ]
    net = build(net=branch, other=resnet()).branches['net']
    assert set(take_pretrained(net)) == {'', 'backbone', 'head'}
    assert list(take_pretrained(net)) == []
    assert net.head.init_cfg == [dict(type='Constant', layer='Linear', val=3)]
    cohort = make(net=branch, other=resnet())
    assert same(cohort.branches['net'], source.branches['net'])
    del branch['init_cfg']
    cohort = make(net=branch, other=resnet())
    assert same(cohort.branches['net'].head, source.branches['deep'].head)


def test_positions_are_adapted(tmp_path):
    """A transformer of the toolbox takes weights of another image size."""

    def net(size, **kwargs):
        return dict(
            backbone=dict(TOOLBOX_VIT, img_size=size, **kwargs), head=HEAD)

    source = make(7, net=net(32), other=resnet()).branches['net'].backbone
    torch.save(source.state_dict(), tmp_path / 'vit.pth')
    init = pretrained(str(tmp_path / 'vit.pth'))
    cohort = make(
        net=dict(net(64, init_cfg=init), input_size=64), other=resnet())
    found = cohort.branches['net'].backbone
    assert source.pos_embed.shape == (1, 5, 16)
    assert found.pos_embed.shape == (1, 17, 16)
    assert torch.equal(found.pos_embed[:, 0], source.pos_embed[:, 0])
    assert torch.equal(found.patch_embed.projection.weight,
                       source.patch_embed.projection.weight)


def test_a_cohort(checkpoint):
    path, source = checkpoint
    cohort = make(init_cfg=pretrained(path), net=resnet(), deep=resnet(14))
    assert same(cohort, source)
    # It goes before those of branches, and in a list as well.
    init = [dict(type='Constant', layer='Linear', val=3), pretrained(path)]
    inner = pretrained(path, 'branches.deep.head')
    net = resnet()
    net['head']['init_cfg'] = inner
    cohort = make(init_cfg=init, net=net, deep=resnet(14))
    assert same(cohort, source)


def test_a_teacher(tmp_path):
    """A part of the cohort, for which the file may hold more."""
    weights = {'teacher.weight': torch.tensor([3., 4.]), 'teacher.a': 1}
    torch.save(weights, tmp_path / 'a.pth')
    teacher = Teacher()
    teacher.layer.init_cfg = pretrained(str(tmp_path / 'a.pth'), 'teacher')
    cohort = make(teacher=teacher, net=resnet(), other=resnet())
    assert cohort.teacher.layer.weight.tolist() == [3, 4]


@pytest.mark.parametrize('branches, words', [
    (dict(net=resnet()), 'adds branches.deep'),
    (dict(net=resnet(), other=resnet(14)),
     'lacks branches.other adds branches.deep'),
    (dict(net=resnet(), deep=resnet()), 'adds branches.deep'),
])
def test_cohorts_that_do_not_fit(checkpoint, branches, words):
    message = refusal_of(init_cfg=pretrained(checkpoint[0]), **branches)
    assert message.startswith(
        f'model.init_cfg: checkpoint {checkpoint[0]} does not fit: it ')
    for word in words.split():
        assert word in message


@pytest.mark.parametrize('init, words', [
    (dict(prefix='branches.net'), 'lacks does not fit'),
    (dict(prefix='backbone.'), 'no key prefix backbone.'),
    (dict(prefix='branches.wide.backbone.'), 'no key branches.wide.'),
    (dict(), 'lacks stages stem'),
    (dict(checkpoint='none.pth', prefix='backbone.'), 'none.pth no such file'),
    (dict(checkpoint=None), 'init_cfg.checkpoint must be a path got None'),
    (dict(checkpoint='torchvision://resnet18'),
     'init_cfg.checkpoint must be a path http(s) torchvision://resnet18'),
])
def test_backbones_that_do_not_fit(checkpoint, init, words):
    message = refusal(
        **resnet(init_cfg={
            **pretrained(checkpoint[0]),
            **init
        }))
    assert message.startswith('model.branches.net.backbone.init_cfg')
    for word in words.split():
        assert word in message


def test_depth_and_width_must_be_those_of_the_backbone(checkpoint):
    init = pretrained(checkpoint[0], 'branches.net.backbone')
    message = refusal(**resnet(14, init_cfg=init))
    assert 'does not fit: it lacks' in message
    branch = resnet(init_cfg=init)
    branch['backbone']['width'] = 6
    assert re.search(r'it has .* of shape \(4,.*\) instead of \(6,',
                     refusal(**branch))


@pytest.mark.parametrize('kind', [
    'Pretrained', 'PretrainedInit', 'mmengine.Pretrained', PretrainedInit
])
@pytest.mark.parametrize('place', [
    'init_cfg', 'branches.net.init_cfg', 'branches.net.backbone.init_cfg',
    'teacher.init_cfg', 'teacher.layer.init_cfg'
])
def test_code_is_not_executed(tmp_path, place, kind):
    torch.save(dict(state_dict=Payload(tmp_path / 'ran')), tmp_path / 'a.pth')
    init = dict(type=kind, checkpoint=str(tmp_path / 'a.pth'))
    cohort = build(teacher=Teacher(), net=resnet(), other=resnet())
    cohort.get_submodule(place.rpartition('.')[0]).init_cfg = init
    with pytest.raises(ConfigError) as info:
        cohort.init_weights()
    assert str(info.value).startswith(f'model.{place}: checkpoint')
    assert 'refused' in str(info.value) and '\n' not in str(info.value)
    assert not (tmp_path / 'ran').exists()


@pytest.mark.parametrize('many', [False, True])
def test_code_of_an_override_is_not_executed(tmp_path, many):
    torch.save(dict(state_dict=Payload(tmp_path / 'ran')), tmp_path / 'a.pth')
    override = dict(pretrained(str(tmp_path / 'a.pth')), name='head')
    init = dict(
        type='Constant',
        layer='Linear',
        val=1,
        override=[override] if many else override)
    assert refusal_of(
        net=dict(resnet(), init_cfg=init), other=resnet()) == (
            'init_cfg.override of branches.net must not be Pretrained; give '
            'the part an init_cfg of its own')
    assert not (tmp_path / 'ran').exists()
    # Others do what they say.
    override.update(type='Constant', val=3)
    override.pop('checkpoint')
    net = dict(resnet(), init_cfg=init)
    net['head']['init_cfg'] = None
    cohort = make(net=net, other=resnet())
    assert (cohort.branches['net'].head.fc.weight == 3).all()


class Teacher(BaseModule):
    """Has parameters that MMEngine initialises."""

    def __init__(self):
        super().__init__()
        self.layer = Linear()


class Linear(BaseModule):

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))


class Payload:
    """Leaves a file if it is executed."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, 'w')


# timm


@pytest.fixture
def timm_weights(tmp_path):
    """Makes settings with which timm loads weights of its own, from a file
    instead of the network."""

    def save(**network):
        torch.manual_seed(7)
        net = timm.create_model(**network)
        torch.save(net.state_dict(), tmp_path / 'timm.pth')
        overlay = dict(file=str(tmp_path / 'timm.pth'))
        return net, dict(
            network, pretrained=True, pretrained_cfg_overlay=overlay)

    return save


@pytest.mark.parametrize('num_classes', [1000, 5])
@pytest.mark.parametrize('network', [dict(model_name='test_resnet'), VIT])
def test_classifiers_of_timm_keep_their_weights(timm_weights, network,
                                                num_classes):
    source, settings = timm_weights(**network)
    cohort = make(
        net=dict(type='TimmClassifier', num_classes=num_classes, **settings),
        other=dict(
            type='TimmClassifier', num_classes=num_classes, **network))
    found = cohort.branches['net'].model.state_dict()
    last = {'fc.weight', 'fc.bias', 'head.weight', 'head.bias'}
    for key, value in source.state_dict().items():
        if num_classes == 1000 or key not in last:
            assert torch.equal(found[key], value), key


@pytest.mark.parametrize('features_only', [False, True])
def test_backbones_of_timm_keep_their_weights(timm_weights, features_only):
    source, settings = timm_weights(model_name='test_resnet')
    cohort = make(
        net=dict(
            backbone=dict(
                type='TIMMBackbone', features_only=features_only, **settings),
            head=HEAD),
        other=resnet())
    found = cohort.branches['net'].backbone.timm_model.state_dict()
    shared = {
        key: value
        for key, value in source.state_dict().items()
        if not key.startswith('fc.')
    }
    assert list(found) == list(shared)
    for key, value in shared.items():
        assert torch.equal(found[key], value), key


@pytest.mark.parametrize('changes, words', [
    (dict(depth=2), 'Missing key'),
    (dict(embed_dim=32), 'size mismatch'),
    (dict(depth=2, num_classes=5), 'Missing key(s) in state_dict: "blocks.1'),
    (dict(embed_dim=32, num_classes=5), 'size mismatch'),
])
def test_weights_of_timm_that_do_not_fit(timm_weights, changes, words):
    _, settings = timm_weights(**VIT)
    message = refusal(type='TimmClassifier', **{**settings, **changes})
    assert words in message and len(message) < 500


def test_weights_of_timm_are_looked_at_by_timm_alone(timm_weights):
    """Random numbers and PyTorch stay as they are."""
    _, settings = timm_weights(**VIT)
    load = nn.Module.load_state_dict
    state = torch.get_rng_state()
    check_pretrained(settings)
    assert torch.equal(torch.get_rng_state(), state)
    assert nn.Module.load_state_dict is load
    # Settings that MMPretrain's wrapper takes, and timm does not.
    for changes in (dict(norm_layer='SyncBN'), dict(no_such=1)):
        check_pretrained(dict(settings, **changes))


def test_the_last_one_of_a_list_wins(checkpoint):
    """As in MMEngine, which loads one after the other."""
    path, source = checkpoint
    branch = resnet()
    branch['head']['init_cfg'] = [
        pretrained(path, f'branches.{name}.head') for name in ('deep', 'net')
    ]
    cohort = make(net=branch, other=resnet())
    assert same(cohort.branches['net'].head, source.branches['net'].head)
