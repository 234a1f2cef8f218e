import pytest
import timm
import torch

from mcod_plugin.alone.classifier_config import stand_alone
from mcod_plugin.alone.timm_twin import timm_twin
from mcod_plugin.models.utils.build_branch import build_branch

HEAD = dict(type='LinearClsHead', num_classes=10)
NARROW = dict(
    type='TIMMBackbone', model_name='resnet18', channels=(4, 4, 8, 8))
VIT = dict(
    type='TIMMBackbone',
    model_name='vit_tiny_patch16_224',
    img_size=32,
    patch_size=8,
    embed_dim=16,
    depth=1,
    num_heads=2)


def find(cfg, channels=3):
    branch, number = build_branch('net', cfg, (32, 32), channels)
    branch.eval()
    cfg = stand_alone('model.branches.net', cfg, branch)
    return branch, timm_twin(cfg, branch, number, (2, channels, 32, 32))


@pytest.mark.parametrize('cfg', [
    dict(backbone=NARROW, head=HEAD),
    dict(backbone=dict(NARROW, features_only=True), head=HEAD),
    dict(backbone=dict(VIT, drop_path_rate=0.1), head=HEAD),
    dict(
        type='TimmClassifier',
        model_name='vit_tiny_patch16_224',
        num_classes=10,
        img_size=32,
        patch_size=8,
        embed_dim=16,
        depth=1,
        num_heads=2,
        global_pool='avg',
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1)),
])
def test_twin(cfg):
    branch, twin = find(cfg)
    # What is written down is enough to build the network.
    network = timm.create_model(
        twin.architecture, num_classes=10, **twin.model_args).eval()
    network.load_state_dict(twin.network.state_dict())
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(
            network(images), branch(images), rtol=0, atol=1e-5)


def test_channels_are_told():
    _, twin = find(
        dict(backbone=dict(NARROW, in_channels=1), head=HEAD), channels=1)
    assert twin.model_args == dict(channels=(4, 4, 8, 8), in_chans=1)


@pytest.mark.parametrize(
    'cfg',
    [
        # not timm's
        dict(
            backbone=dict(type='mcod_plugin.CifarResNet', depth=8, width=4),
            head=HEAD),
        # pooled otherwise than timm does
        dict(
            backbone=dict(NARROW),
            neck=dict(type='GeneralizedMeanPooling', p=3.),
            head=HEAD),
        # classified by more than one layer
        dict(
            backbone=dict(NARROW),
            head=dict(
                type='StackedLinearClsHead', num_classes=10, mid_channels=[8
                                                                           ])),
        # timm norms after the average, the branch before it
        dict(backbone=dict(VIT, global_pool='avg'), head=HEAD),
        # without the last stages
        dict(
            backbone=dict(NARROW, features_only=True, out_indices=(2, )),
            head=HEAD),
    ])
def test_no_twin(cfg):
    assert find(cfg)[1] is None
