import pytest
from mmengine.config import ConfigDict

from mcod_plugin.alone.classifier_config import needs_plugin, stand_alone
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


def test_needs_plugin():
    cfg = dict(backbone=dict(type='ResNet'), neck=[dict(type='A')])
    assert not needs_plugin(cfg)
    cfg['neck'].append(dict(loss=dict(type='mcod_plugin.B')))
    assert needs_plugin(cfg)
