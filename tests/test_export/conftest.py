"""A cohort of all kinds of branches, after two steps, and its exports."""
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.registry import init_default_scope

from mcod_plugin.config.read import read_config
from mcod_plugin.export import export_branches
from mcod_plugin.registry import RUNNERS

ROOT = Path(__file__).parents[2]

# ``vit`` and ``vit2`` differ in values only: neither may get the other's.
CONFIG = f"""\
_base_ = [{str(ROOT / 'configs' / 'mcod_quickstart.py')!r}]
head = dict(type='LinearClsHead', num_classes=10)
narrow = dict(model_name='resnet18.a1_in1k', channels=(4, 4, 8, 8))
vit = dict(
    backbone=dict(
        type='TIMMBackbone', model_name='vit_tiny_patch16_224', img_size=16,
        patch_size=8, embed_dim=16, depth=1, num_heads=2),
    head=head)
model = dict(
    branches=dict(
        _delete_=True,
        cnn=dict(
            backbone=dict(
                type='ResNet_CIFAR', depth=18, stem_channels=4,
                base_channels=4),
            head=head),
        toolbox_vit=dict(
            backbone=dict(
                type='VisionTransformer',
                arch=dict(
                    embed_dims=16, num_layers=1, num_heads=2,
                    feedforward_channels=32),
                img_size=16, patch_size=8),
            head=dict(type='VisionTransformerClsHead', num_classes=10)),
        timm_cnn=dict(backbone=dict(type='TIMMBackbone', **narrow), head=head),
        timm_stages=dict(
            backbone=dict(type='TIMMBackbone', features_only=True, **narrow),
            head=head),
        swin=dict(
            backbone=dict(
                type='TIMMBackbone',
                model_name='swin_tiny_patch4_window7_224', img_size=16,
                window_size=2, embed_dim=8, depths=(1, 1), num_heads=(1, 2)),
            head=head),
        vit=vit,
        vit2=vit,
        timm_classifier=dict(
            type='TimmClassifier', num_classes=10, **narrow),
        # It sees images of a size and a normalisation of its own.
        cifar=dict(
            backbone=dict(type='mcod_plugin.CifarVGG', depth=11, width=4),
            head=head, input_size=32, mean=[60., 70., 80.],
            std=[90., 100., 110.])))
data_preprocessor = dict(mean=[70., 80., 90.], std=[80., 90., 100.])
train_dataloader = dict(batch_size=16, dataset=dict(indices=32))
val_dataloader = dict(batch_size=8, dataset=dict(indices=70))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=1)
custom_hooks = [dict(type='EMAHook', momentum=0.5)]
"""

OTHERS = ('mmpretrain', 'safetensors', 'onnx')


@pytest.fixture(scope='session')
def run(tmp_path_factory):
    """A run of two steps: its config's path and its checkpoint."""
    folder = tmp_path_factory.mktemp('run')
    config = folder / 'tiny.py'
    config.write_text(CONFIG)
    cfg = read_config(str(config))
    cfg.work_dir = str(folder / 'work')
    cfg.experiment_name = folder.name
    init_default_scope('mmpretrain')
    RUNNERS.build(cfg).train()
    checkpoint = folder / 'work' / 'epoch_1.pth'
    return SimpleNamespace(
        config=str(config),
        checkpoint=str(checkpoint),
        content=torch.load(checkpoint, weights_only=True))


@pytest.fixture(scope='session')
def exported(run, tmp_path_factory):
    """All branches in all formats that they can have."""
    folder = tmp_path_factory.mktemp('exported')
    found = {}
    for name, formats in (('others', OTHERS), ('timm', ['timm'])):
        found[name] = export_branches(
            read_config(run.config), run.checkpoint, ['all'], formats,
            str(folder / name))
    items = [item for exports in found.values() for item in exports.items]
    return SimpleNamespace(
        folder=folder,
        items={(item.branch, item.format): item
               for item in items},
        **found)


@pytest.fixture
def place(exported):
    """The folder of an export."""

    def find(branch, format):
        top = 'timm' if format == 'timm' else 'others'
        return exported.folder / top / branch / format

    return find
