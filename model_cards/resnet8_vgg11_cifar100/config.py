auto_scale_lr = dict(base_batch_size=128)
custom_hooks = [
    dict(
        begin=0,
        by_epoch=True,
        curve='linear',
        end=None,
        gap=(
            1,
            0,
        ),
        on=1,
        type='mcod_plugin.DiscontinuousKDHook',
        weight=(
            1.0,
            1.0,
        )),
]
custom_imports = dict(
    allow_failed_imports=False, imports=[
        'mcod_plugin',
    ])
data_preprocessor = dict(
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
    to_rgb=False)
dataset_type = 'CIFAR100'
default_hooks = dict(
    checkpoint=dict(
        interval=1,
        max_keep_ckpts=2,
        save_best=[],
        type='mcod_plugin.BranchCheckpointHook'),
    epoch_seed=dict(type='mcod_plugin.EpochSeedHook'),
    label_check=dict(type='mcod_plugin.LabelCheckHook'),
    logger=dict(interval=50, type='LoggerHook'),
    param_scheduler=dict(type='ParamSchedulerHook'),
    report=dict(type='mcod_plugin.CohortReportHook'),
    runtime_info=dict(type='mcod_plugin.CohortRuntimeInfoHook'),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    timer=dict(type='IterTimerHook'))
default_scope = 'mmpretrain'
env_cfg = dict(
    cudnn_benchmark=True,
    dist_cfg=dict(backend='nccl'),
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0))
log_level = 'INFO'
model = dict(
    branches=dict(
        resnet=dict(
            backbone=dict(depth=8, type='mcod_plugin.CifarResNet'),
            head=dict(num_classes=100, type='LinearClsHead')),
        vgg=dict(
            backbone=dict(depth=11, type='mcod_plugin.CifarVGG', width=16),
            head=dict(num_classes=100, type='LinearClsHead'))),
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
        to_rgb=False),
    distill=dict(temperature=3.0, type='mcod_plugin.DiscontinuousKDLoss'),
    input_size=(
        32,
        32,
    ),
    teacher=dict(fusion='mean', type='mcod_plugin.EnsembleTeacher'),
    type='mcod_plugin.MultiBackboneClassifier')
optim_wrapper = dict(
    optimizer=dict(
        lr=0.1, momentum=0.9, nesterov=True, type='SGD', weight_decay=0.0005),
    type='mcod_plugin.AutocastOptimWrapper')
param_scheduler = [
    dict(by_epoch=True, eta_min=0, type='CosineAnnealingLR'),
]
randomness = dict(seed=0)
runner_type = 'mcod_plugin.CohortRunner'
test_cfg = dict()
test_dataloader = dict(
    batch_size=500,
    collate_fn=dict(type='mcod_plugin.batch_collate'),
    dataset=dict(
        data_root='data',
        pipeline=[
            dict(type='PackInputs'),
        ],
        source='CIFAR100',
        split='test',
        type='mcod_plugin.InMemoryDataset'),
    num_workers=0,
    persistent_workers=False,
    pin_memory=False,
    sampler=dict(shuffle=False, type='DefaultSampler'))
test_evaluator = dict(
    calibration_bins=15, topk=(
        1,
        5,
    ), type='mcod_plugin.BranchMetrics')
train_cfg = dict(by_epoch=True, max_epochs=25, val_interval=1)
train_dataloader = dict(
    batch_size=128,
    collate_fn=dict(type='mcod_plugin.batch_collate'),
    dataset=dict(
        data_root='data',
        per_class=(
            0,
            200,
        ),
        pipeline=[
            dict(crop_size=32, padding=4, type='RandomCrop'),
            dict(direction='horizontal', prob=0.5, type='RandomFlip'),
            dict(type='PackInputs'),
        ],
        source='CIFAR100',
        split='train',
        type='mcod_plugin.InMemoryDataset'),
    num_workers=0,
    persistent_workers=False,
    pin_memory=False,
    sampler=dict(shuffle=True, type='DefaultSampler'))
val_cfg = dict()
val_dataloader = dict(
    batch_size=500,
    collate_fn=dict(type='mcod_plugin.batch_collate'),
    dataset=dict(
        data_root='data',
        pipeline=[
            dict(type='PackInputs'),
        ],
        source='CIFAR100',
        split='test',
        type='mcod_plugin.InMemoryDataset'),
    num_workers=0,
    persistent_workers=False,
    pin_memory=False,
    sampler=dict(shuffle=False, type='DefaultSampler'))
val_evaluator = dict(
    calibration_bins=15, topk=(
        1,
        5,
    ), type='mcod_plugin.BranchMetrics')
visualizer = dict(
    type='UniversalVisualizer', vis_backends=[
        dict(type='LocalVisBackend'),
    ])
