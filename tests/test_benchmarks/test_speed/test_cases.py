"""What each case builds; what it does then, the tool's test shows."""
import pickle
from functools import partial

import pytest
import torch
from torch.utils.data import DataLoader

from mcod_plugin.engine.runner import CohortRunner
from mcod_plugin.errors import ConfigError
from mcod_plugin.models.backbones import CifarResNet
from speed.branch_runner import branch_runner
from speed.cases import (TimerHook, ahead, bare, cohort_runner, growth_cases,
                         load, raw_batches, speed_cases, step, targets, train,
                         validate)


def test_speed_cases(tiny_config):
    cfg = tiny_config()
    cases = speed_cases(cfg, 2, {'x=1': cfg})
    assert list(cases) == [
        'bare/resnet', 'bare/vit', 'step/on', 'step/off', 'runner/on',
        'solo/resnet', 'solo/vit', 'data/cohort', 'data/toolbox-0',
        'data/toolbox-2', 'val/cohort', 'val/resnet', 'val/vit', 'runner/x=1',
        'data/x=1'
    ]
    # They have to reach their processes.
    assert pickle.loads(pickle.dumps(cases)).keys() == cases.keys()
    without = speed_cases(
        tiny_config(val_dataloader=None, val_cfg=None, val_evaluator=None), 0,
        {})
    assert 'data/toolbox-0' in without and 'data/toolbox-2' not in without
    assert not any(name.startswith('val/') for name in without)


def test_cases_with_a_frozen_branch(tiny_config):
    """It is not trained alone, and validated as the others are."""
    cfg = tiny_config(**{'model.branches.resnet.frozen': True})
    assert list(speed_cases(cfg, 0, {})) == [
        'bare/vit', 'step/on', 'step/off', 'runner/on', 'solo/vit',
        'data/cohort', 'data/toolbox-0', 'val/cohort', 'val/resnet', 'val/vit'
    ]


def test_data_of_mmpretrain_are_not_resized(tiny_config, tmp_path):
    cfg = tiny_config(**{'model.branches.resnet.input_size': 20})
    build = speed_cases(cfg, 0, {})['data/toolbox-0'].args[1].args[0]
    (batch, *_) = build(str(tmp_path)).train_dataloader
    assert batch['inputs'].shape[2:] == (16, 16)


def test_growth_of_a_frozen_branch(tiny_config, tmp_path):
    cfg = tiny_config(**{'model.branches.resnet.frozen': True})
    grown = growth_cases(cfg, 'resnet')['growth/2'].args[0]
    assert cohort_runner(grown, str(tmp_path)).model.frozen == []


def test_growth_cases(tiny_config, tmp_path):
    cfg = tiny_config()
    cases = growth_cases(cfg, 'resnet')
    assert list(cases) == [f'growth/{n}' for n in (1, 2, 4, 8)]
    grown = cases['growth/4'].args[0]
    assert list(grown.model.branches) == [f'resnet_{i}' for i in range(4)]
    assert set(cfg.model.branches) == {'resnet', 'vit'}
    model = cohort_runner(grown, str(tmp_path)).model
    sizes = {
        sum(value.numel() for value in branch.parameters())
        for branch in model.branches.values()
    }
    assert len(sizes) == 1


def test_cohort_runner_is_always_on_and_never_ends(tiny_config, tmp_path):
    cfg = tiny_config(epochs=3)
    runner = cohort_runner(cfg, str(tmp_path / 'work'))
    assert isinstance(runner, CohortRunner)
    assert runner.work_dir == str(tmp_path / 'work')
    (hook, ) = [
        hook for hook in runner.hooks
        if type(hook).__name__ == 'DiscontinuousKDHook'
    ]
    schedule = hook.schedule.resolve(1000)
    assert {schedule.weight(epoch) for epoch in (0, 1, 500, 999)} == {1}
    assert runner.cfg.train_cfg.max_epochs > 10_000
    assert runner.cfg.train_cfg.val_interval > 10_000
    (hook, ) = [
        hook for hook in runner.hooks
        if type(hook).__name__ == 'BranchCheckpointHook'
    ]
    assert hook.interval > 10_000
    # The config itself stays as it is.
    assert cfg.train_cfg.max_epochs == 3


def test_raw_batches_are_full(tiny_config):
    cfg = tiny_config(**{'train_dataloader.dataset.indices': 40})
    batches = raw_batches(cfg)
    assert [len(batch['inputs']) for batch in batches] == [16, 16]
    cfg = tiny_config(**{'train_dataloader.batch_size': 99})
    with pytest.raises(ConfigError, match='batch_size.*got 99'):
        raw_batches(cfg)


def test_data_with_views(tiny_config, tmp_path):
    """Raw batches have them, and what is loaded and preprocessed."""
    cfg = tiny_config(**{'train_dataloader.dataset.views': True})
    batch, *_ = raw_batches(cfg)
    assert batch['inputs'].keys() == {'resnet', 'vit'}
    seen = []

    class Timer:
        folder = str(tmp_path)

        def watch_memory(self):
            pass

        def start(self, images, lead_in):
            assert (images, lead_in) == (16, 1)

        def batch(self, index, number):
            seen.append((index, number))
            if len(seen) == 5:
                raise StopIteration

    with pytest.raises(StopIteration):
        load(lambda folder: cohort_runner(cfg, folder), Timer())
    assert seen == [(0, 4), (1, 4), (2, 4), (3, 4), (0, 4)]


def test_targets(tiny_config, tmp_path):
    cfg = tiny_config()
    batch, *_ = raw_batches(cfg)
    preprocess = cohort_runner(cfg, str(tmp_path)).model.data_preprocessor
    labels = targets(preprocess(batch, True)['data_samples'])
    assert labels.shape == (16, ) and labels.dtype == torch.int64
    mixed = tiny_config(
        'mixed',
        **{'model.train_cfg': dict(augments=dict(type='Mixup', alpha=1.))})
    mixed.model.data_preprocessor.num_classes = 10
    preprocess = cohort_runner(mixed, str(tmp_path)).model.data_preprocessor
    batch, *_ = raw_batches(mixed)
    scores = targets(preprocess(batch, True)['data_samples'])
    assert scores.shape == (16, 10)
    assert torch.allclose(scores.sum(1), torch.ones(16))


@pytest.mark.parametrize('name', ['resnet', 'vit'])
def test_bare(tiny_config, tmp_path, course, name):
    course = course(samples=2, seconds=1e-9, folder=tmp_path)
    _, ready, *samples = course.run(bare, tiny_config(), name)
    assert ready['images'] == 16
    assert [steps for _, steps in samples] == [1, 1]


def test_bare_sees_its_own_images(tiny_config, tmp_path, course, monkeypatch):
    shapes = []
    forward = CifarResNet.forward

    def watch(self, inputs):
        shapes.append(tuple(inputs.shape))
        return forward(self, inputs)

    cfg = tiny_config(
        **{
            'model.branches.resnet.input_size': 20,
            'model.branches.resnet.lr_mult': .5
        })
    monkeypatch.setattr(CifarResNet, 'forward', watch)
    course(samples=1, seconds=1e-9, folder=tmp_path).run(bare, cfg, 'resnet')
    assert shapes[-1] == (16, 3, 20, 20)


@pytest.mark.parametrize('weight', [0., 1.])
def test_step(tiny_config, tmp_path, course, weight):
    course = course(samples=1, seconds=1e-9, folder=tmp_path)
    cfg = tiny_config(**{'model.branches.resnet.backbone.width': 16})
    _, ready, (_, steps) = course.run(step, cfg, weight)
    assert ready['images'] == 16 and steps == 1
    assert ready['facts'] == dict(
        memory_formats=dict(resnet='channels_last', vit='contiguous_format'))


@pytest.mark.parametrize('alone', [False, True])
@pytest.mark.parametrize('case', [train, load])
def test_loops_over_training_data(tiny_config, tmp_path, course, case, alone):
    build = builder(tiny_config(), alone)
    course = course(samples=9, seconds=1e-9, folder=tmp_path)
    _, ready, *samples = course.run(case, build)
    assert ready['images'] == 16
    assert [steps for _, steps in samples] == [1] * 9
    assert not list(tmp_path.rglob('*.pth'))


@pytest.mark.parametrize('alone', [False, True])
def test_validation_is_as_long_as_a_sample(tiny_config, tmp_path, course,
                                           alone):
    build = builder(tiny_config(), alone)
    # Any batch takes longer than that.
    short = course(samples=1, seconds=1e-9, folder=tmp_path / 'short')
    _, ready, (_, steps) = short.run(validate, build)
    assert (ready['images'], steps) == (16, 1)


@pytest.mark.parametrize('alone', [False, True])
def test_validation_is_no_longer_than_the_data(tiny_config, tmp_path, course,
                                               alone):
    build = builder(tiny_config(), alone)
    course = course(samples=1, seconds=.5, folder=tmp_path)
    _, ready, (_, steps) = course.run(validate, build)
    # Several times all 40 images, in three batches.
    assert ready['images'] == pytest.approx(40 / 3)
    assert steps % 3 == 0


def builder(cfg, alone):
    """What builds the runner of a cohort, or of its ResNet alone."""
    if alone:
        return partial(branch_runner, cfg, 'resnet', 0)
    return partial(cohort_runner, cfg)


class Record:
    """A timer that notes what it is told."""

    def __init__(self):
        self.told = []

    def start(self, **facts):
        self.told.append(facts)

    def batch(self, index, length):
        self.told.append((index, length))


@pytest.mark.parametrize('settings, expected', [
    (dict(), 0),
    (dict(num_workers=2), 4),
    (dict(num_workers=1, prefetch_factor=5), 5),
])
def test_ahead(settings, expected):
    assert ahead(DataLoader([0] * 8, **settings)) == expected


def test_every_iteration_is_told_and_the_beginning_once(tiny_runner):
    timer = Record()
    runner = tiny_runner()
    runner.register_hook(TimerHook(timer))
    runner.train()
    length = len(runner.train_dataloader)
    batch_size = runner.cfg.train_dataloader.batch_size
    assert timer.told == [
        dict(images=batch_size, lead_in=1),
        *[(index, length) for index in range(length)] * runner.max_epochs
    ]
    assert runner.max_epochs > 1
