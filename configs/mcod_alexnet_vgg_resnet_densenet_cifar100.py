"""The four families of the paper together on CIFAR-100, MCOD-style: AlexNet,
VGG-19-BN, ResNet-110 and DenseNet-BC-100-12.

    python tools/train.py configs/mcod_alexnet_vgg_resnet_densenet_cifar100.py

Depths and recipe are ours; the paper's abstract names the families only.
Each alone by the same recipe: ``--method solo``. A short run has to be longer
than the 5 epochs of warm-up: ``--cfg-options train_cfg.max_epochs=6``.
"""
_base_ = [
    '_base_/datasets/cifar100.py', '_base_/schedules/cifar_200e.py',
    '_base_/default_runtime.py'
]

model = dict(
    type='mcod_plugin.MultiBackboneClassifier',
    branches=dict(
        alexnet=dict(
            backbone=dict(type='mcod_plugin.CifarAlexNet'),
            head=dict(type='LinearClsHead', num_classes=100)),
        vgg=dict(
            backbone=dict(
                type='TIMMBackbone',
                model_name='vgg19_bn',
                features_only=True),
            head=dict(type='LinearClsHead', num_classes=100)),
        resnet=dict(
            backbone=dict(type='mcod_plugin.CifarResNet', depth=110),
            head=dict(type='LinearClsHead', num_classes=100)),
        densenet=dict(
            backbone=dict(
                type='mcod_plugin.CifarDenseNet', depth=100, growth=12),
            head=dict(type='LinearClsHead', num_classes=100))),
    teacher=dict(type='mcod_plugin.EnsembleTeacher', fusion='mean'),
    distill=dict(type='mcod_plugin.DiscontinuousKDLoss', temperature=3.0))

# AlexNet has no batch norm: a few epochs of warm-up keep it from diverging.
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=0.01,
        by_epoch=True,
        end=5,
        convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=5, eta_min=0)
]

custom_hooks = [
    dict(
        type='mcod_plugin.DiscontinuousKDHook',
        on=1,
        gap=(1, 0),
        weight=(0.0, 1.0),
        curve='linear',
        ramp=0.5)
]
