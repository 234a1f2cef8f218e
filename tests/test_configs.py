"""Every config builds what it names, by the recipe that all share."""
import ast
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmpretrain.structures import DataSample

from mcod_plugin.config.methods import apply_method, find_method
from mcod_plugin.config.read import merge_options
from mcod_plugin.registry import METRICS, RUNNERS

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / 'configs').glob('*.py'))
CIFAR = [path for path in CONFIGS if 'cifar' in path.stem]
NUM_CLASSES = dict(cifar10=10, cifar100=100, quickstart=10, in1k=1000)


def each(paths):
    return pytest.mark.parametrize(
        'path', paths, ids=[path.stem for path in paths])


def hints(path):
    """What the docstring offers as ``--cfg-options``."""
    return re.findall(r'--cfg-options\s+([\w.]+=[\w,]+)', docstring(path))


def docstring(path):
    return ast.get_docstring(ast.parse(path.read_text()))


@pytest.fixture
def build(tmp_path):
    """Builds the runner of a config; no data is read for that."""

    def make(path, *options, method=None):
        cfg = Config.fromfile(path)
        if method is not None:
            apply_method(cfg, find_method(method))
        merge_options(cfg, options)
        cfg.work_dir = str(tmp_path)
        cfg.experiment_name = '_'.join((tmp_path.name, *options))
        return RUNNERS.build(cfg)

    return make


def kd_hook(runner):
    (hook, ) = [
        hook for hook in runner.hooks
        if type(hook).__name__ == 'DiscontinuousKDHook'
    ]
    return hook


def test_there_are_configs():
    assert len(CONFIGS) >= 5 and len(CIFAR) >= 3


@each(CONFIGS)
def test_is_short_and_tells_its_command(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 60
    assert max(map(len, text.splitlines())) <= 79
    # Relative to the root of the repository, where the reader stands.
    assert f'python tools/train.py configs/{path.name}' in docstring(path)
    # Imports or nested names would make it another kind of config.
    assert 'import ' not in text


@each(CONFIGS)
def test_builds(build, path):
    runner = build(path)
    model = runner.model
    assert type(model).__name__ == 'MultiBackboneClassifier'
    assert len(model.branches) == len(runner.cfg.model.branches) >= 2
    assert model.num_classes == NUM_CLASSES[path.stem.split('_')[-1]]
    assert model.data_preprocessor.num_classes == model.num_classes

    names = {type(hook).__name__ for hook in runner.hooks}
    assert {
        'BranchCheckpointHook', 'CohortReportHook', 'DiscontinuousKDHook',
        'EpochSeedHook', 'LabelCheckHook'
    } <= names
    METRICS.build(runner.cfg.val_evaluator)
    optim_wrapper = runner.build_optim_wrapper(runner.cfg.optim_wrapper)
    trained = sum(
        len(group['params']) for group in optim_wrapper.param_groups)
    assert trained == len(list(model.parameters()))

    epochs = runner.cfg.train_cfg.max_epochs
    schedule = kd_hook(runner).schedule.resolve(epochs)
    first, last = schedule.phases[0], schedule.phases[-1]
    assert schedule.weight(first[0]) == 0.0
    assert {schedule.weight(t) for t in range(epochs // 2, epochs)} == {1.0}
    assert last[1] == epochs
    assert 0 < sum(map(schedule.is_on, range(schedule.end))) < schedule.end


@each(CONFIGS)
def test_model_learns_from_a_batch(build, path):
    model = build(path).model
    model.kd_weight = 0.5
    inputs = torch.rand(2, 3, *model.input_size)
    samples = [DataSample().set_gt_label(label) for label in (0, 9)]
    total, log = model.parse_losses(model(inputs, samples, mode='loss'))
    total.backward()
    assert torch.isfinite(total)
    for name, branch in model.branches.items():
        assert f'{name}.loss_kd' in log
        assert all(
            torch.isfinite(value.grad).all() for value in branch.parameters())


@each(CONFIGS)
def test_hints_can_be_merged(build, path):
    options = hints(path)
    for option in options:
        runner = build(path, option)
        max_epochs = runner.cfg.train_cfg.max_epochs
        schedule = kd_hook(runner).schedule.resolve(max_epochs)
        assert schedule.end == max_epochs
        for scheduler in runner.cfg.param_scheduler:
            assert scheduler.get('begin', 0) < max_epochs
    if path in CIFAR:
        (option, ) = options
        assert option.startswith('train_cfg.max_epochs=')
    if path.stem != 'mcod_quickstart':
        assert '--method solo' in docstring(path)


@each(CONFIGS)
def test_solo(build, path):
    runner = build(path, method='solo')
    schedule = kd_hook(runner).schedule.resolve(9)
    assert not any(map(schedule.is_on, range(9)))


@each(CONFIGS)
def test_learning_rate_ends_with_the_run(path):
    """It is a cosine to zero over all epochs, however many there are."""
    schedulers = Config.fromfile(path).param_scheduler
    assert schedulers[-1].type == 'CosineAnnealingLR'
    assert schedulers[-1].eta_min == 0 and schedulers[-1].by_epoch
    assert not {'end', 'T_max'} & set(schedulers[-1])
    # a warm-up, if any, is over when it begins
    for warmup in schedulers[:-1]:
        assert warmup.type == 'LinearLR'
        assert warmup.end == schedulers[-1].begin


@each(CIFAR)
def test_cifar_recipe(path):
    cfg = Config.fromfile(path)
    loader = cfg.train_dataloader
    assert loader.batch_size == cfg.auto_scale_lr.base_batch_size == 128
    assert [dict(step) for step in loader.dataset.pipeline] == [
        dict(type='RandomCrop', crop_size=32, padding=4),
        dict(type='RandomFlip', prob=0.5, direction='horizontal'),
        dict(type='PackInputs')
    ]
    assert cfg.optim_wrapper.optimizer == dict(
        type='SGD', lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    assert cfg.train_cfg == dict(by_epoch=True, max_epochs=200, val_interval=1)
    # evaluated on all test images as they are
    assert cfg.val_dataloader.dataset.split == 'test'
    assert cfg.val_dataloader.dataset.pipeline == [dict(type='PackInputs')]
    assert cfg.test_dataloader == cfg.val_dataloader


@each(CONFIGS)
def test_pipelines_give_images_of_the_right_size(build, path, tmp_path):
    runner = build(path)
    size = runner.model.input_size
    stored = dict(quickstart=(16, 16), in1k=(300, 400)).get(
        path.stem.split('_')[-1], (32, 32))
    image = np.random.default_rng(0).integers(0, 256, (*stored, 3), np.uint8)
    for loader in (runner.cfg.train_dataloader, runner.cfg.val_dataloader):
        pipeline = [
            step for step in loader.dataset.pipeline
            if step.type != 'LoadImageFromFile'
        ]
        sample = dict(
            img=image, img_shape=stored, ori_shape=stored, gt_label=1)
        packed = Compose(pipeline)(sample)
        assert packed['inputs'].shape == (3, *size)
        assert int(packed['data_samples'].gt_label) == 1
