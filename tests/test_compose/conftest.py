import pytest
from mmengine.config import Config

from mcod_plugin.compose.source import Source

# A classifier as a project of the toolbox has it, but tiny.
FIRST = """\
default_scope = 'mmpretrain'
custom_imports = dict(imports=['mcod_plugin'], allow_failed_imports=False)
model = dict(
    type='ImageClassifier',
    backbone=dict(type='mcod_plugin.CifarResNet', depth=8, width=4),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=16))
data_preprocessor = dict(
    num_classes=10, mean=[78.] * 3, std=[96.] * 3, to_rgb=False)
train_dataloader = dict(
    batch_size=16,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='mcod_plugin.Digits',
        indices=32,
        pipeline=[
            dict(type='RandomCrop', crop_size=16, padding=2),
            dict(type='PackInputs')
        ]))
val_dataloader = dict(
    batch_size=16,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='mcod_plugin.Digits',
        split='test',
        indices=20,
        pipeline=[dict(type='PackInputs')]))
val_evaluator = dict(type='Accuracy', topk=(1, 3))
test_dataloader = val_dataloader
test_evaluator = val_evaluator
optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-3))
param_scheduler = dict(type='MultiStepLR', milestones=[2], gamma=0.1)
train_cfg = dict(by_epoch=True, max_epochs=2, val_interval=1)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=64)
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=1),
    checkpoint=dict(type='CheckpointHook', interval=1))
load_from = None
"""
# Another one, by another recipe.
SECOND = """\
_base_ = 'first.py'
model = dict(
    backbone=dict(
        _delete_=True, type='ResNet_CIFAR', depth=18, stem_channels=4,
        base_channels=4),
    head=dict(in_channels=32))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working folder, with the configs ``first.py`` and ``second.py``."""
    (tmp_path / 'first.py').write_text(FIRST)
    (tmp_path / 'second.py').write_text(SECOND)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def sources(folder):
    """Makes the sources of both configs, the second one with other lines."""

    def make(lines='', first=''):
        (folder / 'first.py').write_text(FIRST + first)
        (folder / 'second.py').write_text(SECOND + lines)
        return [
            Source(name, f'{name}.py', Config.fromfile(f'{name}.py'))
            for name in ('first', 'second')
        ]

    return make
