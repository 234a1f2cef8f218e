"""The cohort of the runs that are tests of tools."""
from pathlib import Path

ROOT = Path(__file__).parents[1]

TINY = f"""\
_base_ = [{str(ROOT / 'configs' / 'mcod_quickstart.py')!r}]
model = dict(
    branches=dict(
        _delete_=True,
        resnet=dict(
            backbone=dict(type='mcod_plugin.CifarResNet', depth=8, width=4),
            head=dict(type='LinearClsHead', num_classes=10)),
        vgg=dict(
            backbone=dict(type='mcod_plugin.CifarVGG', depth=11, width=4),
            head=dict(type='LinearClsHead', num_classes=10))))
crop = dict(type='RandomCrop', crop_size=32, padding=4)
train_dataloader = dict(
    batch_size=32,
    dataset=dict(
        size=32, indices=96, pipeline=[crop, dict(type='PackInputs')]))
val_dataloader = dict(batch_size=40, dataset=dict(size=32, indices=40))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=2)
# The picture takes longer than the run.
default_hooks = dict(run_figure=None)
# Too short for a weight that grows.
custom_hooks = [
    dict(
        type='mcod_plugin.DiscontinuousKDHook',
        on=1,
        gap=(1, 0),
        weight=(1.0, 1.0),
        curve='linear')
]
"""
