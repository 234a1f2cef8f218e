# CIFAR-100, looked for in data/ and downloaded there if it is missing.
dataset_type = 'CIFAR100'

data_preprocessor = dict(
    num_classes=100,
    # of the training images, RGB, which is how they are stored
    mean=[129.304, 124.070, 112.434],
    std=[68.170, 65.392, 70.418],
    to_rgb=False)

train_dataloader = dict(
    batch_size=128,
    # The images stay in memory and are augmented by the batch.
    num_workers=0,
    persistent_workers=False,
    collate_fn=dict(type='mcod_plugin.batch_collate'),
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='mcod_plugin.InMemoryDataset',
        source=dataset_type,
        data_root='data',
        split='train',
        pipeline=[
            dict(type='RandomCrop', crop_size=32, padding=4),
            dict(type='RandomFlip', prob=0.5, direction='horizontal'),
            dict(type='PackInputs'),
        ]))

val_dataloader = dict(
    batch_size=500,
    num_workers=0,
    persistent_workers=False,
    collate_fn=dict(type='mcod_plugin.batch_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='mcod_plugin.InMemoryDataset',
        source=dataset_type,
        data_root='data',
        split='test',
        pipeline=[dict(type='PackInputs')]))
val_evaluator = dict(type='mcod_plugin.BranchMetrics', topk=(1, 5))

test_dataloader = val_dataloader
test_evaluator = val_evaluator
