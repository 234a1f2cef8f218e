"""ResNet-18 of MMPretrain and MobileNetV2 of timm together on ImageNet-1k,
MCOD-style, for 100 epochs.

    python tools/train.py configs/mcod_resnet18_mobilenetv2_in1k.py --amp

Expects data/imagenet/{train,val} with one folder per class. The batch of 256
may be shared by several GPUs: --launcher pytorch, and
--cfg-options train_dataloader.batch_size=32 on eight of them.
Each alone by the same recipe: ``--method solo``.
"""
_base_ = ['_base_/datasets/imagenet_256.py', '_base_/default_runtime.py']

model = dict(
    type='mcod_plugin.MultiBackboneClassifier',
    branches=dict(
        resnet=dict(
            backbone=dict(type='ResNet', depth=18),
            head=dict(type='LinearClsHead', num_classes=1000)),
        mobilenet=dict(
            backbone=dict(
                type='TIMMBackbone', model_name='mobilenetv2_100'),
            head=dict(type='LinearClsHead', num_classes=1000))),
    teacher=dict(type='mcod_plugin.EnsembleTeacher', fusion='mean'),
    distill=dict(type='mcod_plugin.DiscontinuousKDLoss', temperature=3.0))

optim_wrapper = dict(
    optimizer=dict(
        type='SGD', lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4))
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=0.01,
        by_epoch=True,
        end=5,
        convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=5, eta_min=0)
]
train_cfg = dict(by_epoch=True, max_epochs=100, val_interval=1)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=256)

custom_hooks = [
    dict(
        type='mcod_plugin.DiscontinuousKDHook',
        on=1,
        gap=(1, 0),
        weight=(0.0, 1.0),
        curve='linear',
        ramp=0.5)
]
