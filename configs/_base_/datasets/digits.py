# The handwritten digits that come with scikit-learn: 1,797 images, 360 of
# them held out.
dataset_type = 'mcod_plugin.Digits'

data_preprocessor = dict(
    num_classes=10, mean=[77.9] * 3, std=[95.9] * 3, to_rgb=False)

train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    persistent_workers=False,
    collate_fn=dict(type='mcod_plugin.batch_collate'),
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='mcod_plugin.InMemoryDataset',
        source=dataset_type,
        split='train',
        pipeline=[
            dict(type='RandomCrop', crop_size=16, padding=2),
            dict(type='PackInputs'),
        ]))

val_dataloader = dict(
    batch_size=360,
    num_workers=0,
    persistent_workers=False,
    collate_fn=dict(type='mcod_plugin.batch_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='mcod_plugin.InMemoryDataset',
        source=dataset_type,
        split='test',
        pipeline=[dict(type='PackInputs')]))
val_evaluator = dict(type='mcod_plugin.BranchMetrics', topk=(1, ))

test_dataloader = val_dataloader
test_evaluator = val_evaluator
