"""ResNet-32 and VGG-16-BN together on CIFAR-10, MCOD-style.

    python tools/train.py configs/mcod_resnet_vgg_cifar10.py

Each alone by the same recipe: ``--method solo``. A short run:
``--cfg-options train_cfg.max_epochs=2``.
"""
_base_ = [
    '_base_/models/cifar_resnet32_vgg16.py', '_base_/datasets/cifar10.py',
    '_base_/schedules/cifar_200e.py', '_base_/default_runtime.py'
]

model = dict(
    branches=dict(
        resnet=dict(head=dict(num_classes=10)),
        vgg=dict(head=dict(num_classes=10))))

custom_hooks = [
    dict(
        type='mcod_plugin.DiscontinuousKDHook',
        on=1,
        gap=(1, 0),
        weight=(0.0, 1.0),
        curve='linear',
        ramp=0.5)
]
