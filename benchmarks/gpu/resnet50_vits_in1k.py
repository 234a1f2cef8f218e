"""ResNet-50 and a ViT-S of DeiT's size on ImageNet-1k, each with its own
optimizer: for speeds, without a recipe that has been tried.
"""
_base_ = ['../../configs/mcod_resnet18_mobilenetv2_in1k.py']

model = dict(
    branches=dict(
        _delete_=True,
        resnet=dict(
            backbone=dict(type='ResNet', depth=50),
            head=dict(type='LinearClsHead', num_classes=1000)),
        vit=dict(
            backbone=dict(type='VisionTransformer', arch='deit-small'),
            head=dict(type='LinearClsHead', num_classes=1000),
            optimizer=dict(type='AdamW', lr=5e-4, weight_decay=0.05))))
