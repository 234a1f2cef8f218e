"""ResNet-18 and MobileNetV2 on ImageNet-1k, each with a crop of its own of an
image that is read and decoded once: for what that saves.
"""
_base_ = ['../../configs/mcod_resnet18_mobilenetv2_in1k.py']

view = [
    dict(type='RandomResizedCrop', scale=224),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    dataset=dict(pipeline=[
        dict(type='LoadImageFromFile'),
        dict(
            type='mcod_plugin.BranchViews',
            pipelines=dict(resnet=view, mobilenet=view))
    ]))
