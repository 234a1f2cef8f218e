import copy

import pytest
import timm
import torch
import torch.nn as nn
from mmengine.optim import OptimWrapper
from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS
from mmpretrain.structures import DataSample

from mcod_plugin.errors import ConfigError
from mcod_plugin.models.utils.build_branch import build_branch
from mcod_plugin.registry import MODELS

GAP = dict(type='GlobalAveragePooling')
CLASS_TOKEN = dict(type='mcod_plugin.LayoutPooling', layout='class_token')
TOKENS = dict(type='mcod_plugin.LayoutPooling', layout='tokens')
NHWC = dict(type='mcod_plugin.LayoutPooling', layout='NHWC')

TIMM_VIT = dict(
    model_name='vit_tiny_patch16_224',
    img_size=32,
    patch_size=16,
    embed_dim=16,
    depth=1,
    num_heads=2)
TIMM_SWIN = dict(
    model_name='swin_tiny_patch4_window7_224',
    img_size=32,
    window_size=4,
    embed_dim=8,
    depths=(1, 1),
    num_heads=(1, 2))
TIMM_CONVNEXT = dict(
    model_name='convnext_atto', depths=(1, 1, 1, 1), dims=(8, 8, 16, 24))
VIT = dict(
    type='VisionTransformer',
    arch=dict(
        embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=16),
    img_size=32,
    patch_size=16)
SWIN = dict(
    type='SwinTransformer',
    arch=dict(embed_dims=8, depths=[1, 1], num_heads=[1, 2]),
    img_size=32,
    window_size=4,
    out_indices=(1, ))
MIXER = dict(
    type='MlpMixer',
    arch=dict(
        embed_dims=16,
        num_layers=1,
        tokens_mlp_dims=8,
        channels_mlp_dims=8),
    img_size=32,
    patch_size=16)


def timm_net(model_name, **kwargs):
    return dict(type='TIMMBackbone', model_name=model_name, **kwargs)


# Backbone, and the neck and the in_channels that a config of the toolbox would
# have to name.
ZOO = dict(
    timm_cnn=(timm_net('test_resnet'), GAP, 96),
    timm_cnn_maps=(timm_net('test_resnet', features_only=True), GAP, 96),
    timm_vgg=(timm_net('vgg11_bn', features_only=True), GAP, 512),
    timm_mobilenet=(timm_net('mobilenetv3_small_050'), GAP, 1024),
    timm_convnext=(timm_net(**TIMM_CONVNEXT), GAP, 24),
    timm_vit=(timm_net(**TIMM_VIT), CLASS_TOKEN, 16),
    timm_vit_maps=(timm_net(
        **TIMM_VIT, features_only=True, out_indices=(0, )), GAP, 16),
    timm_vit_avg=(timm_net(
        **TIMM_VIT, class_token=False, global_pool='avg'), TOKENS, 16),
    timm_vit_avg_class=(timm_net(**TIMM_VIT, global_pool='avg'),
                        dict(TOKENS, num_prefix_tokens=1), 16),
    timm_vit_registers=(timm_net(
        **TIMM_VIT, reg_tokens=3, class_token=False, global_pool='avg'),
                        dict(TOKENS, num_prefix_tokens=3), 16),
    timm_swin=(timm_net(**TIMM_SWIN), NHWC, 16),
    timm_swin_maps=(timm_net(**TIMM_SWIN, features_only=True), NHWC, 16),
    timm_mambaout=(timm_net('test_mambaout'), NHWC, 256),
    timm_mixer=(timm_net('gmlp_ti16_224', img_size=32), TOKENS, 128),
    resnet_cifar=(dict(
        type='ResNet_CIFAR', depth=18, stem_channels=4,
        base_channels=4), GAP, 32),
    resnet=(dict(
        type='ResNet', depth=50, stem_channels=4, base_channels=4), GAP, 128),
    vgg=(dict(type='VGG', depth=11, norm_cfg=dict(type='BN')), GAP, 512),
    mobilenet=(dict(type='MobileNetV2', widen_factor=.25), GAP, 1280),
    vit=(VIT, None, 16),
    vit_avg=(dict(VIT, out_type='avg_featmap'), None, 16),
    vit_map=(dict(VIT, out_type='featmap'), GAP, 16),
    vit_raw=(dict(VIT, out_type='raw'), CLASS_TOKEN, 16),
    vit_raw_no_class=(dict(VIT, out_type='raw',
                           with_cls_token=False), TOKENS, 16),
    swin=(SWIN, GAP, 16),
    convnext=(dict(
        type='ConvNeXt', arch=dict(depths=[1, 1], channels=[8, 12]),
        out_indices=1), None, 12),
    repvgg=(dict(
        type='RepVGG',
        arch=dict(
            num_blocks=[1] * 4, width_factor=[.125] * 4, group_layer_map=None,
            se_cfg=None)), GAP, 64),
    poolformer=(dict(
        type='PoolFormer',
        arch=dict(
            layers=[1] * 4,
            embed_dims=[4, 6, 8, 12],
            mlp_ratios=[1] * 4,
            layer_scale_init_value=1e-5)), GAP, 12),
    mixer=(MIXER, dict(GAP, dim=1), 16),
    # as many patches as channels
    mixer_tie=(dict(MIXER, patch_size=8), dict(GAP, dim=1), 16),
    alexnet=(dict(type='mcod_plugin.CifarAlexNet', width=4), GAP, 16),
)
TIMM_CLASSIFIERS = dict(
    cnn=dict(model_name='test_resnet', num_classes=5),
    vit=dict(**TIMM_VIT, num_classes=5))


def head(**kwargs):
    return dict(type='LinearClsHead', num_classes=5, **kwargs)


def make_cohort(memory_format='auto', **branches):
    cohort = MODELS.build(
        dict(
            type='mcod_plugin.MultiBackboneClassifier',
            input_size=32,
            memory_format=memory_format,
            branches=branches))
    cohort.init_weights()
    return cohort


def make_batch(num=4, size=32):
    inputs = torch.randn(num, 3, size, size)
    samples = [DataSample().set_gt_label(i % 5) for i in range(num)]
    return inputs, samples


def randomize(module):
    """Weights that no initialisation has made zero or equal."""
    for param in module.parameters():
        nn.init.normal_(param, std=.1)


def build(**cfg):
    return build_branch('net', cfg, (32, 32), 3)[0]


def refusal(error=ConfigError, **cfg):
    """What the user reads who gives such a branch."""
    with pytest.raises(error) as info:
        build(**cfg)
    message = str(info.value)
    assert '\n' not in message and message.startswith('model.branches.net')
    return message


def check_round_trip(cohort, fresh):
    """Saved weights arrive, tensor by tensor and in the logits."""
    randomize(cohort)
    inputs, _ = make_batch()
    cohort.train()
    cohort(inputs)  # moves the statistics of norm layers
    saved = copy.deepcopy(cohort.state_dict())
    assert any(not torch.equal(value, fresh.state_dict()[key])
               for key, value in saved.items())
    fresh.load_state_dict(saved)
    assert list(fresh.state_dict()) == list(saved)
    for key, value in fresh.state_dict().items():
        assert torch.equal(value, saved[key]), key
    cohort.eval()
    fresh.eval()
    with torch.no_grad():
        wanted = cohort.branch_logits(inputs)
        for name, logits in fresh.branch_logits(inputs).items():
            assert torch.equal(logits, wanted[name]), name


def check_logits(cohort, other, alone):
    """They are those of the network alone: beyond rounding, and bit for bit
    of a cohort in the memory format that it has itself."""
    other.load_state_dict(cohort.state_dict())
    alone.load_state_dict({
        key[len('branches.net.'):]: value
        for key, value in cohort.state_dict().items()
    })
    for module in (cohort, other, alone):
        module.eval()
    inputs, _ = make_batch()
    with torch.no_grad():
        logits = alone(inputs)
        assert logits.shape == (4, 5) and logits.std() > 0
        assert torch.equal(other(inputs), logits)
        torch.testing.assert_close(
            cohort(inputs), logits, rtol=1e-4, atol=1e-4)


def check_gradients(cohort):
    """One step reaches every parameter, as distributed training wants."""
    inputs, samples = make_batch()
    cohort.train()
    cohort.kd_weight = 1.
    loss, _ = cohort.parse_losses(cohort(inputs, samples, mode='loss'))
    loss.backward()
    for key, param in cohort.named_parameters():
        # (PoolFormer freezes its first layer by default.)
        if param.requires_grad:
            assert param.grad is not None and param.grad.isfinite().all(), key
    cohort.zero_grad()
    before = copy.deepcopy(cohort.state_dict())
    optimizer = torch.optim.SGD(cohort.parameters(), lr=.1)
    logs = cohort.train_step(
        dict(inputs=list(inputs), data_samples=samples),
        OptimWrapper(optimizer))
    assert logs['loss'].isfinite()
    for name in cohort.branches:
        assert any(not torch.equal(value, before[key])
                   for key, value in cohort.state_dict().items()
                   if key.startswith(f'branches.{name}.'))


@pytest.mark.parametrize('backbone, neck, in_channels', ZOO.values(), ids=ZOO)
def test_any_backbone(backbone, neck, in_channels):
    torch.manual_seed(0)
    branch = dict(backbone=backbone, head=head())
    given = copy.deepcopy(branch)
    cohort = make_cohort(net=branch)
    assert branch == given
    check_round_trip(cohort, make_cohort(net=branch))
    # the same classifier as one whose config names everything
    alone = MMPRETRAIN_MODELS.build(
        dict(
            type='ImageClassifier',
            backbone=copy.deepcopy(backbone),
            neck=copy.deepcopy(neck),
            head=head(in_channels=in_channels)))
    check_logits(cohort, make_cohort('contiguous', net=branch), alone)
    check_gradients(cohort)


@pytest.mark.parametrize(
    'net', TIMM_CLASSIFIERS.values(), ids=TIMM_CLASSIFIERS)
def test_timm_classifier(net):
    torch.manual_seed(0)
    branch = dict(type='TimmClassifier', **net)
    cohort = make_cohort(net=branch)
    check_round_trip(cohort, make_cohort(net=branch))
    check_logits(cohort, make_cohort('contiguous', net=branch),
                 timm.create_model(**net))
    check_gradients(cohort)


def test_large_cohort(tmp_path):
    """Eight networks of two libraries and four layouts."""
    torch.manual_seed(0)
    names = ('timm_cnn', 'timm_vit', 'timm_swin', 'timm_convnext',
             'resnet_cifar', 'vit_raw', 'mixer', 'convnext')
    branches = {
        name: dict(backbone=ZOO[name][0], head=head())
        for name in names
    }
    cohort = make_cohort(**branches)
    check_gradients(cohort)
    torch.save(cohort.state_dict(), tmp_path / 'cohort.pth')
    fresh = make_cohort(**branches)
    fresh.load_state_dict(torch.load(tmp_path / 'cohort.pth'))
    check_round_trip(cohort, fresh)


def test_class_token_or_mean():
    """The pooling is that of the network's own classifier."""
    inputs, _ = make_batch()
    for global_pool in ('token', 'avg'):
        own = timm.create_model(
            **TIMM_VIT, global_pool=global_pool, num_classes=0)
        branch = build(
            backbone=timm_net(**TIMM_VIT, global_pool=global_pool),
            head=head())
        randomize(own)
        branch.backbone.timm_model.load_state_dict(own.state_dict())
        branch.eval()
        own.eval()
        # The norm comes before the mean in one and after it in the other.
        own.fc_norm = branch.backbone.timm_model.fc_norm = nn.Identity()
        torch.testing.assert_close(
            branch.extract_feat(inputs)[-1], own(inputs))


def test_last_stage_is_pooled():
    branch = build(
        backbone=dict(
            type='ResNet_CIFAR',
            depth=18,
            stem_channels=4,
            base_channels=4,
            out_indices=(1, 3)),
        head=head())
    feats = branch.extract_feat(torch.rand(2, 3, 32, 32))
    assert [feat.shape for feat in feats] == [(2, 8), (2, 32)]
    assert branch.head.in_channels == 32


def test_settings_that_are_given_win():
    gem = dict(type='GeneralizedMeanPooling')
    branch = build(backbone=ZOO['alexnet'][0], neck=gem, head=head())
    assert type(branch.neck).__name__ == 'GeneralizedMeanPooling'
    assert branch.head.in_channels == 16
    # None is a choice as well
    message = refusal(
        backbone=ZOO['timm_swin'][0], neck=None, head=head(in_channels=8))
    assert 'head.in_channels is 8' in message and '16 channels' in message
    # the toolbox's way to pool (N, C, L)
    branch = build(
        backbone=MIXER, neck=dict(GAP, dim=1), head=head(in_channels=16))
    assert branch.neck.gap.output_size == 1


def test_hidden_layer_of_neck():
    neck = [GAP, dict(type='LinearNeck', in_channels=16, out_channels=7)]
    branch = build(backbone=ZOO['alexnet'][0], neck=neck, head=head())
    assert branch.head.in_channels == 7


def test_built_modules():
    net = MMPRETRAIN_MODELS.build(ZOO['alexnet'][0])
    branch = build(backbone=net, head=head())
    assert branch.head.in_channels == 16
    again, num_classes = build_branch('net', branch, (32, 32), 3)
    assert again is branch and num_classes == 5


def test_mode_and_statistics_are_left_alone():
    branch = build(backbone=ZOO['resnet_cifar'][0], head=head())
    assert all(module.training for module in branch.modules())
    assert branch.state_dict()['backbone.bn1.num_batches_tracked'] == 0


@pytest.mark.parametrize('size', [64, (64, 32)])
def test_other_input_size(size):
    net = timm_net(**{**TIMM_VIT, 'img_size': size})
    message = refusal(backbone=net, head=head())
    assert message.startswith('model.branches.net.backbone fails')
    assert '32x32' in message and 'input_size' in message
    shape = size if isinstance(size, tuple) else (size, size)
    branch, _ = build_branch('net', dict(backbone=net, head=head()), shape, 3)
    assert branch.head.in_channels == 16


def test_pretrained_path(tmp_path):
    """The toolbox's setting ``pretrained`` is one of the backbone."""
    source = build(backbone=ZOO['alexnet'][0], head=head())
    randomize(source)
    torch.save(source.state_dict(), tmp_path / 'net.pth')
    torch.save(source.backbone.state_dict(), tmp_path / 'backbone.pth')
    loaded = build(
        backbone=ZOO['alexnet'][0],
        head=head(),
        pretrained=str(tmp_path / 'net.pth'))
    loaded.init_weights()
    for value, wanted in zip(loaded.parameters(), source.parameters()):
        assert torch.equal(value, wanted)
    init_cfg = dict(
        type='Pretrained',
        checkpoint=str(tmp_path / 'net.pth'),
        prefix='backbone.')
    loaded = build(
        backbone=dict(ZOO['alexnet'][0], init_cfg=init_cfg), head=head())
    loaded.init_weights()
    for value, wanted in zip(loaded.backbone.parameters(),
                             source.backbone.parameters()):
        assert torch.equal(value, wanted)
    assert not torch.equal(loaded.head.fc.weight, source.head.fc.weight)


@MODELS.register_module()
class HeadOfItsOwn(torch.nn.Module):
    """It has no loss that a cohort could ask for."""

    def forward(self, feats):
        return feats[-1].mean((2, 3))


@pytest.mark.parametrize('cfg, setting, words', [
    (dict(backbone=SWIN), '.head', 'missing'),
    (dict(head=head()), '.backbone', 'missing'),
    (dict(backbone=SWIN, head=None), '.head', 'missing'),
    (dict(backbone=SWIN, head=dict(num_classes=5)), '.head.type', 'missing'),
    (dict(backbone=dict(depth=18), head=head()), '.backbone.type', 'missing'),
    (dict(backbone=SWIN, head=head(in_channels=7)), '.head.in_channels',
     '7 16'),
    (dict(backbone=ZOO['timm_swin'][0], neck=GAP, head=head()), '.neck',
     '(N, C, H, W) (2, 4, 4, 16) GlobalAveragePooling'),
    (dict(backbone=ZOO['timm_vit'][0], neck=GAP, head=head()), '.neck',
     '(N, C, H, W) (2, 5, 16) GlobalAveragePooling'),
    (dict(backbone=VIT, neck=GAP, head=head()), '.neck', '(2, 16)'),
    (dict(backbone=timm_net('resnet81'), head=head()),
     ".backbone.model_name 'resnet81'", 'timm resnet18'),
    (dict(backbone=timm_net('zzzzzzzzzz'), head=head()),
     ".backbone.model_name 'zzzzzzzzzz'", 'timm'),
    (dict(backbone=dict(SWIN, depth=3), head=head()), '.backbone', 'depth'),
    (dict(backbone=dict(type='mcod_plugin.CifarResNet', depth=33),
          head=head()), '.backbone', 'depth'),
    (dict(backbone=SWIN, head=head(), data_preprocessor=dict(mean=[0] * 3)),
     '.data_preprocessor', 'model.data_preprocessor'),
    (dict(backbone=SWIN, head=head(), train_cfg=dict(augments=[])),
     '.train_cfg', 'model.train_cfg'),
    (dict(type='TimmClassifier', model_name='test_vit', train_cfg=dict(a=1)),
     '.train_cfg', 'model.train_cfg'),
    (dict(type='TimmClassifier', model_name='tset_vit'),
     ".model_name 'tset_vit'", 'timm test_vit'),
    (dict(type='HuggingFaceClassifier', model_name='microsoft/resnet-50'), '',
     'transformers'),
    (dict(type='SimCLR', backbone=SWIN, head=None), '', ''),
    (dict(type='LinearClsHead', num_classes=5, in_channels=3), '',
     'LinearClsHead fails'),
    (dict(backbone=SWIN, head=dict(type='mcod_plugin.HeadOfItsOwn')), '',
     'HeadOfItsOwn LinearClsHead'),
    (dict(backbone=dict(type='Conformer', arch='tiny', patch_size=16),
          head=dict(type='ConformerHead', num_classes=5,
                    in_channels=[256, 384])), '', 'logits tuple'),
    (dict(backbone=SWIN, head=dict(type='ClsHead'), neck=None), '',
     'logits (N, num_classes) (2, 16, 4, 4)'),
])
def test_refused(cfg, setting, words):
    message = refusal(**cfg)
    assert message.startswith(f'model.branches.net{setting}')
    for word in words.split():
        assert word in message


@pytest.mark.parametrize('cfg', [None, 'resnet18', 5, [head()]])
def test_no_dict(cfg):
    with pytest.raises(ConfigError, match='^model.branches.net must be'):
        build_branch('net', cfg, (32, 32), 3)


def test_images_of_other_channels():
    net = dict(type='mcod_plugin.CifarAlexNet', width=4, in_channels=1)
    with pytest.raises(
            ConfigError,
            match=r'net.backbone fails on .* 3 channels \(as many as '
            r'data_preprocessor.mean has\) and 32x24 pixels \(input_size\): '):
        build_branch('net', dict(backbone=net, head=head()), (32, 24), 3)


def test_images_of_one_channel():
    net = dict(type='mcod_plugin.CifarAlexNet', width=4, in_channels=1)
    branch, _ = build_branch('net', dict(backbone=net, head=head()),
                             (32, 32), 1)
    assert branch(torch.rand(2, 1, 32, 32)).shape == (2, 5)
