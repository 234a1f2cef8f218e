"""A small cohort on CIFAR-100, MCOD-style: ResNet-8 and a VGG-11-BN of a
quarter of the width.

    python tools/train.py configs/mcod_small_cifar100.py

Each branch alone by the same recipe (distillation never on):

    ... --method solo

A short run: ``--cfg-options train_cfg.max_epochs=2``.
"""
_base_ = [
    '_base_/models/cifar_resnet32_vgg16.py', '_base_/datasets/cifar100.py',
    '_base_/schedules/cifar_200e.py', '_base_/default_runtime.py'
]

model = dict(
    branches=dict(
        resnet=dict(backbone=dict(depth=8)),
        vgg=dict(
            backbone=dict(
                _delete_=True, type='mcod_plugin.CifarVGG', depth=11,
                width=16))))

custom_hooks = [
    dict(
        type='mcod_plugin.DiscontinuousKDHook',
        on=1,
        gap=(1, 0),
        weight=(0.0, 1.0),
        curve='linear',
        ramp=0.5)
]
