# resnet, a branch of config.py
# The network sees RGB images, as the data set holds them. Tools that read
# image files read BGR, so hand them arrays: inferencer(image[..., ::-1]).
custom_imports = dict(
    allow_failed_imports=False, imports=[
        'mcod_plugin',
    ])
default_scope = 'mmpretrain'
model = dict(
    backbone=dict(depth=8, type='mcod_plugin.CifarResNet'),
    data_preprocessor=dict(
        mean=[
            129.304,
            124.07,
            112.434,
        ],
        num_classes=100,
        std=[
            68.17,
            65.392,
            70.418,
        ],
        to_rgb=False,
        type='mmpretrain.ClsDataPreprocessor'),
    head=dict(in_channels=64, num_classes=100, type='LinearClsHead'),
    neck=dict(type='GlobalAveragePooling'),
    type='ImageClassifier')
test_cfg = dict()
test_dataloader = dict(
    batch_size=500,
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        data_root='data',
        pipeline=[
            dict(backend='pillow', scale=(
                32,
                32,
            ), type='Resize'),
            dict(type='PackInputs'),
        ],
        split='test',
        type='CIFAR100'),
    num_workers=0,
    persistent_workers=False,
    sampler=dict(shuffle=False, type='DefaultSampler'))
test_evaluator = dict(
    topk=(
        1,
        5,
    ), type='Accuracy')
