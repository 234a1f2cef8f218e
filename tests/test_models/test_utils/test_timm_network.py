import logging

import pytest
import timm
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmpretrain.models import TIMMBackbone
from mmpretrain.registry import MODELS

from mcod_plugin.errors import ConfigError
from mcod_plugin.models.utils.build_branch import build_branch
from mcod_plugin.models.utils.timm_network import (
    classifier_lines, is_buildable, layers_after_pooling, model_name,
    network_settings, recorded_features)

HEAD = dict(type='LinearClsHead', num_classes=7)
VIT = dict(
    model_name='vit_tiny_patch16_224',
    img_size=32,
    patch_size=8,
    embed_dim=16,
    depth=1,
    num_heads=2)
CONVNEXT = dict(
    model_name='convnext_atto', depths=(1, 1, 1, 1), dims=(8, 8, 16, 24))
NARROW = dict(channels=(4, 4, 8, 8))


def branch(head=HEAD, neck=False, **backbone):
    cfg = dict(backbone=dict(backbone, type='TIMMBackbone'), head=dict(head))
    return cfg if neck is False else dict(cfg, neck=neck)


@pytest.fixture
def warned():
    """Builds a branch, and returns the warnings."""
    lines = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = MMLogger.get_current_instance()

    def build(cfg, size=32, channels=3):
        del lines[:]
        logger.addHandler(handler)
        try:
            build_branch('net', cfg, (size, size), channels)
        finally:
            logger.removeHandler(handler)
        return list(lines)

    return build


@pytest.mark.parametrize('settings, layers', [
    (CONVNEXT, 'head.norm (LayerNorm2d)'),
    (dict(model_name='mobilenetv4_conv_small_035'),
     'conv_head (Conv2d), norm_head (BatchNormAct2d)'),
    (dict(model_name='ghostnet_050'), 'conv_head (Conv2d)'),
    (dict(model_name='hgnetv2_b0'), 'head.last_conv.0 (Conv2d), '
     'head.last_conv.2 (LearnableAffineBlock)'),
    (dict(VIT,
          model_name='deit_tiny_distilled_patch16_224'), 'head_dist (Linear)'),
    (dict(VIT, global_pool='avg'), 'fc_norm (LayerNorm)'),
    (dict(VIT, global_pool='map'), 'attn_pool (AttentionPoolLatent)'),
    (dict(model_name='test_mambaout'),
     'head.norm (LayerNorm), head.pre_logits.fc (Linear)'),
    (dict(model_name='repvit_m0_9'), 'head.head.bn (BatchNorm1d), '
     'head.head.l (Linear), head.head_dist.bn (BatchNorm1d)'),
])
def test_layers_that_are_left_out(warned, settings, layers):
    """Also where the last map is one pixel, as of 32."""
    (line, ) = warned(branch(**settings))
    name = settings['model_name']
    assert line.startswith(f"model.branches.net is not timm's {name}, ")
    assert f'after the pooling: {layers}. ' in line
    # What it says to write is a branch, and timm's network to the last key.
    text = line[line.index('net=dict('):]
    assert text.count('\n') == 1
    cfg = Config.fromstring(f'model = dict({text})', '.py').model.net
    classifier = MODELS.build(cfg)
    args = {k: v for k, v in settings.items() if k != 'model_name'}
    network = timm.create_model(name, num_classes=7, **args)
    assert {
        k: v.shape
        for k, v in classifier.model.state_dict().items()
    } == {
        k: v.shape
        for k, v in network.state_dict().items()
    }
    assert warned(cfg) == []


def test_levit(warned):
    """Its layers behind the pooling give what they get, while they are new:
    numbers would not tell."""
    (line, ) = warned(branch(model_name='levit_128s'), size=224)
    assert ('head.bn (BatchNorm1d), head_dist.bn (BatchNorm1d), '
            'head_dist.linear (Linear). ') in line


@pytest.mark.parametrize(
    'cfg, size',
    [
        (branch(model_name='resnet18', **NARROW), 32),
        (branch(model_name='resnet18', **NARROW, in_channels=1), 32),
        (branch(model_name='resnetv2_18', channels=(8, 8, 8, 8)), 32),
        (branch(model_name='dla46x_c'), 32),
        (branch(model_name='densenet121', growth_rate=2), 32),
        (branch(model_name='efficientnet_b0'), 32),
        (branch(model_name='mobilenetv2_050'), 32),
        (branch(model_name='vgg11', features_only=True), 32),
        (branch(model_name='regnety_002'), 32),
        (branch(**VIT), 32),
        (branch(**CONVNEXT, features_only=True), 32),
        # Not what it seems to be, and not meant to be.
        (branch(**CONVNEXT, neck=dict(type='GeneralizedMeanPooling', p=3.)), 32
         ),
        (branch(
            **CONVNEXT,
            head=dict(
                type='StackedLinearClsHead', num_classes=7,
                mid_channels=[8])), 32),
    ])
def test_nothing_left_out(warned, cfg, size):
    channels = cfg['backbone'].get('in_channels', 3)
    assert warned(cfg, size, channels) == []


def test_built_parts(warned):
    cfg = branch(**CONVNEXT)
    built = dict(cfg, backbone=MODELS.build(cfg['backbone']))
    assert warned(built) == []
    head = MODELS.build(dict(HEAD, in_channels=24))
    assert warned(dict(cfg, head=head)) == []


def test_random_numbers_are_left_alone():
    torch.manual_seed(0)
    build_branch('net', branch(**CONVNEXT), (32, 32), 3)
    checked = torch.rand(1)
    torch.manual_seed(0)
    build_branch(
        'net',
        branch(**CONVNEXT, neck=dict(type='GeneralizedMeanPooling', p=3.)),
        (32, 32), 3)
    # The neck takes none.
    assert torch.equal(checked, torch.rand(1))


def test_features_are_noted_once():
    backbone = TIMMBackbone('resnet18', **NARROW)
    with recorded_features(backbone) as found:
        backbone(torch.zeros(1, 3, 64, 64))
    backbone(torch.zeros(1, 3, 64, 64))
    assert [tuple(value.shape) for value in found] == [(1, 8, 2, 2)]
    assert 'forward_features' not in vars(backbone.timm_model)
    with recorded_features(torch.nn.Linear(2, 2)) as found:
        assert found == []


def test_what_timm_does_not_tell():
    images = torch.zeros(1, 3, 32, 32)
    assert layers_after_pooling(dict(model_name='nothing'), images,
                                images) == []


@pytest.mark.parametrize('name, size', [('crossvit_tiny_240', 240),
                                        ('coat_lite_tiny', 224),
                                        ('efficientvit_b0', 64),
                                        ('inception_next_atto', 64)])
def test_networks_that_keep_their_pooling(name, size):
    cfg = branch(model_name=name)
    with pytest.raises(ConfigError) as caught:
        build_branch('net', cfg, (size, size), 3)
    text = ' '.join(str(caught.value).split())
    assert text.startswith('model.branches.net.backbone: ')
    assert text.endswith(
        '; timm builds it with its own classifier: write net=dict(type='
        f"'TimmClassifier', model_name={name!r}, num_classes=7)")
    # As it says.
    lines = classifier_lines('net', cfg['backbone'], cfg['head'])
    net = Config.fromstring(f'model = dict({lines})', '.py').model.net
    assert build_branch('net', net, (size, size), 3)[1] == 7


def test_other_mistakes_get_no_such_advice():
    for settings in (dict(VIT, img_sise=64), dict(model_name='resnet17')):
        with pytest.raises(ConfigError) as caught:
            build_branch('net', branch(**settings), (32, 32), 3)
        assert 'TimmClassifier' not in str(caught.value)
        assert not is_buildable(settings)


@pytest.mark.parametrize('given, expected', [
    ('resnet18', 'resnet18'),
    ('resnet18.a1_in1k', 'resnet18.a1_in1k'),
    ('timm/resnet18.a1_in1k', 'resnet18.a1_in1k'),
    ('hf-hub:timm/resnet18.a1_in1k', 'resnet18.a1_in1k'),
])
def test_names(given, expected):
    assert model_name(dict(model_name=given)) == expected


def test_settings():
    cfg = dict(
        type='TIMMBackbone',
        model_name='resnet18',
        features_only=False,
        pretrained=True,
        in_channels=1,
        init_cfg=None,
        drop_path_rate=0.1)
    assert network_settings(cfg) == dict(
        pretrained=True, in_chans=1, drop_path_rate=0.1)
    loss = dict(type='LabelSmoothLoss', label_smooth_val=0.1)
    assert classifier_lines('net', cfg, dict(HEAD, loss=loss)) == (
        "net=dict(type='TimmClassifier',\n    model_name='resnet18', "
        'num_classes=7, pretrained=True, drop_path_rate=0.1, in_chans=1, '
        "loss={'type': 'LabelSmoothLoss', 'label_smooth_val': 0.1})")
