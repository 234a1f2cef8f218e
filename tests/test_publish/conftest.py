"""Tiny runs of a cohort and of its solo baseline, and what is published."""
from pathlib import Path
from types import SimpleNamespace

import pytest
from mmengine.registry import init_default_scope

from mcod_plugin.config.methods import apply_method, find_method
from mcod_plugin.config.read import read_config
from mcod_plugin.publish import publish_cohort
from mcod_plugin.registry import RUNNERS

ROOT = Path(__file__).parents[2]

# One branch is MMPretrain's alone, the other needs the plugin and has images
# of its own size.
CONFIG = f"""\
_base_ = [{str(ROOT / 'configs' / 'mcod_quickstart.py')!r}]
head = dict(type='LinearClsHead', num_classes=10)
model = dict(
    branches=dict(
        _delete_=True,
        resnet=dict(
            backbone=dict(
                type='ResNet_CIFAR', depth=18, stem_channels=4,
                base_channels=4),
            head=head),
        vgg=dict(
            backbone=dict(type='mcod_plugin.CifarVGG', depth=11, width=4),
            head=head, input_size=32)))
train_dataloader = dict(batch_size=32, dataset=dict(indices=256))
val_dataloader = dict(batch_size=30, dataset=dict(indices=120))
test_dataloader = dict(dataset=dict(indices=7))
train_cfg = dict(max_epochs=3)
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


def train(folder, method=None, record=False, **changes):
    """Train the tiny cohort.

    Args:
        folder (Path): Where to put config and work directory.
        method (str, optional): Another method.
        record (bool): Whether the run leaves a record. Defaults to False.
        **changes: Settings by dotted key.

    Returns:
        Path: The work directory.
    """
    config = folder / 'tiny.py'
    config.write_text(CONFIG)
    cfg = read_config(str(config))
    if method is not None:
        apply_method(cfg, find_method(method))
    cfg.merge_from_dict(changes)
    if record:
        cfg.custom_hooks.append(
            dict(
                type='mcod_plugin.RunRecordHook',
                info=dict(study='digits', method='mcod')))
    cfg.work_dir = str(folder / 'work')
    cfg.experiment_name = folder.name
    init_default_scope('mmpretrain')
    RUNNERS.build(cfg).train()
    return folder / 'work'


@pytest.fixture(scope='session')
def runs(tmp_path_factory):
    """Work directories of the cohort, of solo, and of another recipe."""
    return SimpleNamespace(
        cohort=train(tmp_path_factory.mktemp('cohort'), record=True),
        solo=train(
            tmp_path_factory.mktemp('solo'), 'solo', **{'randomness.seed': 1}),
        shorter=train(
            tmp_path_factory.mktemp('shorter'), 'solo', **{
                'train_cfg.max_epochs': 1,
                'optim_wrapper.optimizer.lr': 0.5
            }))


@pytest.fixture(scope='session')
def published(runs, tmp_path_factory):
    """The cohort, published with its solo baseline."""
    out = tmp_path_factory.mktemp('cards') / 'tiny'
    publication = publish_cohort(str(runs.cohort), str(out), str(runs.solo))
    return SimpleNamespace(
        out=out,
        publication=publication,
        members={member.name: member
                 for member in publication.members})
