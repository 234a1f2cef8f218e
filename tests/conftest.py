import logging
import os
import subprocess
import sys
from pathlib import Path

# The networks here are tiny: a second thread only waits for the first, and for
# whatever else the machine does. Set before PyTorch is imported, for the
# processes that tests start as well.
os.environ.setdefault('OMP_NUM_THREADS', '1')

import pytest  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.logging import MMLogger  # noqa: E402
from mmengine.registry import init_default_scope  # noqa: E402
from mmengine.utils import ManagerMixin  # noqa: E402

from mcod_plugin.registry import RUNNERS  # noqa: E402

from . import format_once  # noqa: E402, F401


@pytest.fixture(autouse=True)
def mmengine_globals():
    """MMEngine keeps loggers, message hubs, scopes and visualizers, which
    write into the folder of their first run, in globals by name."""
    init_default_scope('mmpretrain')
    yield
    for logger in MMLogger._instance_dict.values():
        for handler in list(logger.handlers):
            if isinstance(handler, logging.FileHandler):
                handler.close()
    holders = [ManagerMixin]
    for holder in holders:
        holder._instance_dict.clear()
        holders += holder.__subclasses__()


@pytest.fixture(scope='session')
def ranks(tmp_path_factory):
    """Calls a function of a test module, with arguments, in processes that
    form a group; what each returns."""

    def run(function, *args, size=2):
        import torch
        folder = tmp_path_factory.mktemp('ranks')
        torch.save(args, folder / 'args.pth')
        done = subprocess.run([
            sys.executable,
            Path(__file__).with_name('ranks.py'),
            function.__code__.co_filename, function.__name__, folder,
            str(size)
        ],
                              env={
                                  **os.environ, 'PYTHONPATH':
                                  os.pathsep.join(filter(None, sys.path))
                              },
                              timeout=300,
                              capture_output=True,
                              text=True)
        assert done.returncode == 0, done.stderr
        return [
            torch.load(folder / f'{rank}.pth', weights_only=False)
            for rank in range(size)
        ]

    return run


TRANSFORMER = dict(
    type='TIMMBackbone',
    model_name='vit_tiny_patch16_224',
    img_size=16,
    patch_size=8,
    embed_dim=16,
    depth=1,
    num_heads=2,
    proj_drop_rate=0.2)
HEAD = dict(type='LinearClsHead', num_classes=10)


@pytest.fixture
def tiny_config(tmp_path):
    """Makes configs of a tiny run: a convolutional network and a transformer
    with dropout, on a few handwritten digits with random crops.

    Hooks, data and optimizer are real, so that tests see what users see. The
    images come by the batch, or one by one if ``in_memory`` is False.
    """
    crop = [
        dict(type='RandomCrop', crop_size=16, padding=2),
        dict(type='PackInputs')
    ]

    def make(work_dir='run', epochs=2, in_memory=True, **changes):
        loader = dict(
            num_workers=0,
            collate_fn=dict(type='mcod_plugin.batch_collate'),
            batch_size=16)
        digits = dict(type='mcod_plugin.Digits')
        if in_memory:
            digits = dict(
                type='mcod_plugin.InMemoryDataset', source=digits['type'])
        cfg = dict(
            default_scope='mmpretrain',
            runner_type='mcod_plugin.CohortRunner',
            work_dir=str(tmp_path / work_dir),
            experiment_name=f'{tmp_path.name}_{work_dir}_{make.count}',
            model=dict(
                type='mcod_plugin.MultiBackboneClassifier',
                input_size=16,
                data_preprocessor=dict(mean=[78.] * 3, std=[96.] * 3),
                branches=dict(
                    resnet=dict(
                        backbone=dict(
                            type='mcod_plugin.CifarResNet', depth=8, width=4),
                        head=dict(HEAD)),
                    vit=dict(backbone=dict(TRANSFORMER), head=dict(HEAD)))),
            train_dataloader=dict(
                loader,
                sampler=dict(type='DefaultSampler', shuffle=True),
                dataset=dict(digits, indices=64, pipeline=crop)),
            val_dataloader=dict(
                loader,
                sampler=dict(type='DefaultSampler', shuffle=False),
                dataset=dict(
                    digits, split='test', indices=40, pipeline=crop[1:])),
            val_evaluator=dict(type='mcod_plugin.BranchMetrics', topk=(1, )),
            train_cfg=dict(by_epoch=True, max_epochs=epochs),
            val_cfg=dict(),
            optim_wrapper=dict(
                optimizer=dict(type='SGD', lr=0.05, momentum=0.9)),
            param_scheduler=[dict(type='CosineAnnealingLR', end=4)],
            default_hooks=dict(
                runtime_info=dict(type='mcod_plugin.CohortRuntimeInfoHook'),
                logger=dict(type='LoggerHook', interval=2),
                checkpoint=dict(
                    type='mcod_plugin.BranchCheckpointHook', interval=1),
                epoch_seed=dict(type='mcod_plugin.EpochSeedHook'),
                label_check=dict(type='mcod_plugin.LabelCheckHook'),
                report=dict(type='mcod_plugin.CohortReportHook')),
            custom_hooks=[
                dict(
                    type='mcod_plugin.DiscontinuousKDHook',
                    gap=(1, 0),
                    weight=(0.5, 2.0))
            ],
            randomness=dict(seed=3))
        make.count += 1
        cfg['test_dataloader'] = cfg['val_dataloader']
        cfg['test_evaluator'] = cfg['val_evaluator']
        cfg['test_cfg'] = dict()
        cfg = Config(cfg)
        cfg.merge_from_dict(changes)
        return cfg

    make.count = 0
    return make


@pytest.fixture
def tiny_runner(tiny_config):
    """Builds the runner of a tiny config."""

    def make(*args, **kwargs):
        cfg = tiny_config(*args, **kwargs)
        # The picture takes longer than the run.
        cfg.default_hooks.setdefault('run_figure', None)
        return RUNNERS.build(cfg)

    return make
