from types import SimpleNamespace

import pytest
import torch
import torch.nn as nn
from mmpretrain.registry import MODELS

from mcod_plugin.models.utils.feature_layout import (FeatureLayout,
                                                     feature_layout)

VIT = dict(
    type='TIMMBackbone',
    model_name='vit_tiny_patch16_224',
    img_size=32,
    patch_size=16,
    embed_dim=16,
    depth=1,
    num_heads=2)


def layout_of(cfg, size):
    net = MODELS.build(cfg)
    net.eval()
    with torch.no_grad():
        return feature_layout(net, net(torch.zeros(1, 3, size, size))[-1])


@pytest.mark.parametrize('shape, expected', [
    ((2, 7), ('flat', 7)),
    ((2, 5, 7), ('tokens', 7)),
    ((2, 7, 4, 4), ('NCHW', 7)),
    ((2, 4, 4, 7), ('NHWC', 7)),
    ((2, 7, 1, 1), ('NCHW', 7)),
    ((2, 1, 1, 7), ('NHWC', 7)),
    ((2, 7, 2, 4), ('NCHW', 7)),
    ((2, 4, 4, 4), ('NCHW', 4)),
])
def test_shape_of_an_unknown_network(shape, expected):
    assert feature_layout(nn.Identity(),
                          torch.zeros(shape)) == FeatureLayout(*expected)


@pytest.mark.parametrize('feature', [
    torch.zeros(2), torch.zeros(2, 3, 4, 5, 6), [torch.zeros(2, 3)], None
])
def test_no_layout(feature):
    assert feature_layout(nn.Identity(), feature) is None


@pytest.mark.parametrize('named', ['NHWC', SimpleNamespace(value='NHWC')])
def test_a_named_format_settles_a_cube(named):
    net = nn.Identity()
    net.output_fmt = named
    cube = torch.zeros(2, 4, 4, 4)
    assert feature_layout(net, cube).name == 'NHWC'
    net.output_fmt = 'NCHW'
    assert feature_layout(net, cube).name == 'NCHW'
    # even where the shape would say otherwise
    assert feature_layout(net, torch.zeros(2, 4, 4, 7)).channels == 4


@pytest.mark.parametrize('settings, expected', [
    (dict(), ('class_token', 16)),
    (dict(reg_tokens=2), ('class_token', 16)),
    (dict(global_pool='avg'), ('tokens', 16, 1)),
    (dict(global_pool='avg', reg_tokens=2), ('tokens', 16, 3)),
    (dict(global_pool='avg', class_token=False), ('tokens', 16)),
    (dict(features_only=True, out_indices=(0, )), ('NCHW', 16)),
])
def test_timm_transformer(settings, expected):
    assert layout_of(dict(VIT, **settings), 32) == FeatureLayout(*expected)


@pytest.mark.parametrize('features_only', [False, True])
def test_timm_swin_whose_map_is_a_cube(features_only):
    swin = dict(
        type='TIMMBackbone',
        model_name='swin_tiny_patch4_window7_224',
        img_size=128,
        window_size=4,
        embed_dim=8,
        depths=(1, 1),
        num_heads=(1, 1),
        features_only=features_only)
    assert layout_of(swin, 128) == FeatureLayout('NHWC', 16)


@pytest.mark.parametrize('patch_size', [8, 16])
def test_mixer(patch_size):
    """Channels come first, also where there are as many tokens."""
    mixer = dict(
        type='MlpMixer',
        arch=dict(
            embed_dims=16,
            num_layers=1,
            tokens_mlp_dims=8,
            channels_mlp_dims=8),
        img_size=32,
        patch_size=patch_size)
    assert layout_of(mixer, 32) == FeatureLayout('NCL', 16)


@pytest.mark.parametrize('reshape, name', [(False, 'NCL'), (True, 'NCHW')])
def test_efficientformer(reshape, name):
    net = dict(
        type='EfficientFormer',
        arch=dict(
            layers=[1] * 4,
            embed_dims=[4, 8, 8, 12],
            downsamples=[False, True, True, True],
            vit_num=1),
        reshape_last_feat=reshape)
    assert layout_of(net, 224) == FeatureLayout(name, 12)
