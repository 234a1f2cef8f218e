"""ResNet-32 and VGG-16-BN together on CIFAR-100, MCOD-style.

    python tools/train.py configs/mcod_resnet_vgg_cifar100.py

Each branch alone by the same recipe (distillation never on):

    ... --method solo

A run on a CPU, learning rate and distillation schedule fitted to it:

    ... --cfg-options train_cfg.max_epochs=2
"""
_base_ = [
    '_base_/models/cifar_resnet32_vgg16.py', '_base_/datasets/cifar100.py',
    '_base_/schedules/cifar_200e.py', '_base_/default_runtime.py'
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
