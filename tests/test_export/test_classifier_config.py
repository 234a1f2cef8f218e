import pytest
from mmengine.config import ConfigDict
from mmpretrain.models import LinearClsHead

from mcod_plugin.errors import ConfigError
from mcod_plugin.export.classifier_config import (is_pretrained, needs_plugin,
                                                  plain, stand_alone,
                                                  without_pretrained)
from mcod_plugin.models.backbones import CifarResNet
from mcod_plugin.models.utils.build_branch import build_branch

HEAD = dict(type='LinearClsHead', num_classes=10)


@pytest.mark.parametrize('backbone, neck, channels', [
    (dict(type='mcod_plugin.CifarResNet', depth=8,
          width=4), dict(type='GlobalAveragePooling'), 16),
    (dict(
        type='MlpMixer',
        arch=dict(
            embed_dims=8, num_layers=1, tokens_mlp_dims=4,
            channels_mlp_dims=8),
        img_size=16,
        patch_size=8), dict(type='GlobalAveragePooling', dim=1), 8),
    (dict(
        type='TIMMBackbone',
        model_name='vit_tiny_patch16_224',
        img_size=16,
        patch_size=8,
        embed_dim=16,
        depth=1,
        num_heads=2),
     dict(
         type='mcod_plugin.LayoutPooling',
         layout='class_token',
         num_prefix_tokens=0), 16),
])
def test_what_was_left_out_is_worked_out(backbone, neck, channels):
    cfg = ConfigDict(
        _scope_='mmpretrain', backbone=backbone, head=HEAD, train_cfg=None)
    branch, _ = build_branch('net', cfg, (16, 16), 3)
    found = stand_alone('model.branches.net', cfg, branch)
    assert found == dict(
        type='ImageClassifier',
        backbone=backbone,
        neck=neck,
        head=dict(HEAD, in_channels=channels))
    assert type(found) is dict and type(found['backbone']) is dict
    # It is the config of the same network, and complete.
    again, _ = build_branch('net', found, (16, 16), 3)
    assert again.state_dict().keys() == branch.state_dict().keys()
    assert stand_alone('model.branches.net', found, again) == found


def test_what_is_stated_wins():
    cfg = dict(
        type='ImageClassifier',
        backbone=dict(type='mcod_plugin.CifarResNet', depth=8, width=4),
        neck=dict(type='GeneralizedMeanPooling', p=2.),
        head=dict(HEAD, in_channels=16))
    branch, _ = build_branch('net', cfg, (16, 16), 3)
    assert stand_alone('model.branches.net', cfg, branch) == cfg


def test_weights_to_start_from_are_left_out():
    cfg = dict(
        pretrained='a.pth',
        init_cfg=dict(type='Pretrained', checkpoint='b.pth'),
        backbone=dict(
            type='TIMMBackbone',
            pretrained=True,
            checkpoint_path='c.pth',
            init_cfg=[
                dict(type='Kaiming', layer='Conv2d'),
                dict(type='Pretrained', checkpoint='d.pth')
            ]),
        head=dict(HEAD, init_cfg=dict(type='Normal', layer='Linear')))
    assert without_pretrained(cfg) == dict(
        backbone=dict(type='TIMMBackbone'),
        head=dict(HEAD, init_cfg=dict(type='Normal', layer='Linear')))
    assert cfg['backbone']['pretrained'] is True


@pytest.mark.parametrize('cfg, expected', [
    (dict(pretrained=True), True),
    (dict(pretrained=False, checkpoint_path=''), False),
    (dict(backbone=[dict(checkpoint_path='c.pth')]), True),
    (dict(init_cfg=[dict(type='mmengine.Pretrained')]), True),
    (dict(init_cfg=dict(type='Normal', layer='Linear')), False),
])
def test_is_pretrained(cfg, expected):
    assert is_pretrained(cfg) is expected


def test_plain():
    given = ConfigDict(
        a=dict(type=LinearClsHead), b=[CifarResNet, (1, 2.5)], c=None)
    found = plain('model', given)
    assert found == dict(
        a=dict(type='LinearClsHead'),
        b=['mcod_plugin.CifarResNet', (1, 2.5)],
        c=None)
    assert type(found['a']) is dict
    with pytest.raises(ConfigError, match=r'model\.a\.1 .* got a function'):
        plain('model', dict(a=[1, lambda: 0]))


def test_needs_plugin():
    cfg = dict(backbone=dict(type='ResNet'), neck=[dict(type='A')])
    assert not needs_plugin(cfg)
    cfg['neck'].append(dict(loss=dict(type='mcod_plugin.B')))
    assert needs_plugin(cfg)
