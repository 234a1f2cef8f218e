import pytest
from mmpretrain.registry import MODELS

from mcod_plugin.models.utils.input_size import (guess_input_size,
                                                 network_input_size)


def timm_backbone(name, **settings):
    return dict(
        backbone=dict(type='TIMMBackbone', model_name=name, **settings),
        head=dict(type='LinearClsHead', num_classes=3))


SMALL = dict(embed_dim=16, depth=1, num_heads=2)


@pytest.mark.parametrize('branch, expected', [
    (timm_backbone('vit_tiny_patch16_224', img_size=64), 64),
    (timm_backbone('vit_tiny_patch16_224', img_size=(48, 64)), (48, 64)),
    (timm_backbone('vit_tiny_patch16_224'), (224, 224)),
    (timm_backbone('timm/vit_base_patch16_384.augreg_in1k'), (384, 384)),
    (timm_backbone('vit_tiny_patch16_224', dynamic_img_size=True), None),
    (timm_backbone('swin_tiny_patch4_window7_224', strict_img_size=False),
     None),
    (timm_backbone('resnet18.a1_in1k'), None),
    (timm_backbone('no_such_network'), None),
    (timm_backbone('resnet18.no_such_weights'), None),
    (dict(type='TimmClassifier', model_name='mixer_s32_224'), (224, 224)),
    (dict(type='mmpretrain.TimmClassifier', model_name='x', img_size=64), 64),
    (dict(backbone=dict(type='VisionTransformer', img_size=48)), 48),
    (dict(backbone=dict(type='ResNet', depth=18)), None),
    (None, None),
])
def test_size_of_a_network(branch, expected):
    assert network_input_size(branch) == expected


@pytest.mark.parametrize('branch, expected', [
    (timm_backbone('vit_tiny_patch16_224', img_size=64, **SMALL), (64, 64)),
    (timm_backbone('levit_128s'), (224, 224)),
    (timm_backbone('resnet18', channels=(4, 4, 4, 4)), None),
    (dict(
        type='TimmClassifier',
        model_name='vit_tiny_patch16_224',
        img_size=(32, 64),
        **SMALL), (32, 64)),
    (dict(backbone=dict(type='MlpMixer', arch='s', img_size=32,
                        patch_size=16)), (32, 32)),
])
def test_size_of_a_network_as_built(branch, expected):
    """A config may hold parts that are built, or be all built."""
    if 'backbone' in branch:
        branch = dict(branch, backbone=MODELS.build(branch['backbone']))
        assert tuple(network_input_size(branch) or ()) == (expected or ())
        built = branch['backbone']
    else:
        built = MODELS.build(branch)
    assert tuple(network_input_size(built) or ()) == (expected or ())


def test_networks_before_the_guess():
    """A branch that has its images resized says nothing of the others'."""
    cifar = dict(backbone=dict(type='ResNet_CIFAR', depth=18))
    vit = timm_backbone('vit_tiny_patch16_224', img_size=64)
    assert guess_input_size(dict(a=cifar, b=vit)) == 64
    assert guess_input_size(dict(a=cifar, b=dict(vit, input_size=64))) == 32
    assert guess_input_size(dict(a=dict(vit, input_size=64))) == 224


@pytest.mark.parametrize('name, expected', [
    ('mcod_plugin.CifarVGG', 32),
    ('ResNet_CIFAR', 32),
    ('ResNet', 224),
])
def test_guess(name, expected):
    branches = dict(
        a=dict(backbone=dict(type='Swin')), b=dict(backbone=[dict(type=name)]))
    assert guess_input_size(branches) == expected


def test_guess_looks_at_types_only():
    assert guess_input_size(
        dict(cifar=dict(backbone=dict(type='ResNet', name='cifar')))) == 224
