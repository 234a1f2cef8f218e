"""The setting ``cuda_graph`` in real runs, with a tape for a GPU."""
import copy
import math

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from torch.optim import SGD

from mcod_plugin.engine.graph import graph_setting
from mcod_plugin.errors import ConfigError
from mmengine.registry import OPTIMIZERS
from ...tape import TapeRecorder

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(),
    reason='runs are on the GPU then, for which there is '
    'benchmarks/gpu/whole_step.py')

# A learning rate of its own for every step, and as few files as can be.
CHANGES = {
    'param_scheduler': [
        dict(
            type='CosineAnnealingLR',
            by_epoch=True,
            end=4,
            convert_to_iter_based=True)
    ],
    'custom_hooks.0.end':
    4,
    'train_cfg.val_interval':
    4,
    'default_hooks.checkpoint.interval':
    10,
    'default_hooks.checkpoint.save_best':
    'ensemble/top1'
}
BY_ITERATION = {
    'train_cfg':
    dict(by_epoch=False, max_iters=16, val_interval=5, _delete_=True),
    # At the end of an epoch MMEngine sleeps for two seconds.
    'train_dataloader.sampler.type': 'InfiniteSampler',
    'custom_hooks.0.by_epoch': False,
    'custom_hooks.0.on': 3,
    'custom_hooks.0.end': 16,
    'param_scheduler':
    [dict(type='CosineAnnealingLR', by_epoch=False, end=16)],
    'default_hooks.checkpoint.by_epoch': False,
    'default_hooks.checkpoint.interval': 16
}


class Log(Hook):
    """Keeps what the steps give, and what made them."""
    priority = 'LOWEST'

    def before_train_epoch(self, runner):
        self.rows, self.step = [], runner._graphed

    def after_train_iter(self, runner, batch_idx, data_batch, outputs):
        self.rows.append({
            **{
                key: value.detach().item()
                for key, value in outputs.items()
            },
            **runner.optim_wrapper.get_lr()
        })


@pytest.fixture
def train(tiny_runner, monkeypatch):
    """Trains a tiny run on a machine whose GPU is a tape."""
    monkeypatch.setattr(
        graph_setting, 'make_recorder',
        lambda runner: TapeRecorder(runner.model, runner.optim_wrapper))

    def run(name, cuda_graph, epochs=4, hooks=(), **changes):
        changes = copy.deepcopy({**CHANGES, **changes})
        if 'train_cfg' in changes:
            del changes['train_cfg.val_interval']
        runner = tiny_runner(name, epochs, cuda_graph=cuda_graph, **changes)
        log = Log()
        for hook in (log, *hooks):
            runner.register_hook(hook)
        runner.train()
        # The model is as it was.
        assert 'train_step' not in vars(runner.model)
        return runner, log

    return run


def equal(one, other):
    """Whether two runs have logged, saved and become the same."""
    (one, one_log), (other, other_log) = one, other

    def history(runner):
        return repr({
            key: value.data[0].tolist()
            for key, value in runner.message_hub.log_scalars.items()
            if 'time' not in key
        })

    states = [[
        *runner.model.state_dict().values(),
        *(value for hook in runner.hooks if hasattr(hook, 'ema_model')
          for value in hook.ema_model.state_dict().values())
    ] for runner in (one, other)]
    return repr(one_log.rows) == repr(
        other_log.rows) and history(one) == history(other) and all(
            map(lambda pair: torch.equal(*map(torch.nan_to_num, pair)),
                zip(*states, strict=True)))


RUNS = dict(
    iterations=BY_ITERATION,
    # The last batch is smaller.
    one_by_one={
        'in_memory': False,
        'train_dataloader.batch_size': 24
    },
    averaged={
        'custom_hooks.1': dict(type='EMAHook', momentum=.1),
        'model.teacher': dict(type='mcod_plugin.EnsembleTeacher', ema=.9)
    },
    own_optimizers={
        'model.branches.vit.optimizer': dict(type='AdamW', lr=1e-3),
        'model.branches.vit.clip_grad': dict(max_norm=.1),
        'optim_wrapper.clip_grad': dict(max_norm=1.)
    },
    views={'train_dataloader.dataset.views': True},
    mixed_views={
        'train_dataloader.dataset.views': True,
        'model.train_cfg': dict(augments=dict(type='CutMix', alpha=1.))
    },
    factors={
        'model.branches.vit.lr_mult': .5,
        'optim_wrapper.clip_grad': dict(max_norm=1.),
        'model.train_cfg': dict(augments=dict(type='Mixup', alpha=.8))
    })


@pytest.mark.parametrize('name', RUNS)
def test_a_recorded_run_is_a_plain_run(train, name):
    changes = dict(RUNS[name])
    extra = changes.pop('custom_hooks.1', None)
    hooks = [] if extra is None else [extra]
    plain = train('plain', False, hooks=hooks, **changes)
    graphed = train('graphed', True, hooks=hooks, **changes)
    assert equal(plain, graphed)
    steps, step = len(plain[1].rows), graphed[1].step
    assert step.replays >= steps / 3 and plain[1].step is None


def test_validation_in_between_and_a_resumed_run(train):
    changes = {'train_cfg.val_interval': 1}
    plain = train('plain', False, **changes)
    graphed = train('graphed', True, **changes)
    assert equal(plain, graphed) and graphed[1].step.replays >= 8
    # A validation has nothing recorded anew.
    assert graphed[1].step.recordings <= 3
    train('broken', True, 2)
    rest, log = train('broken', True, resume=True)
    assert log.step.replays > 0
    assert log.rows == plain[1].rows[-len(log.rows):]
    states = [run.model.state_dict() for run in (plain[0], rest)]
    assert all(map(torch.equal, *(state.values() for state in states)))


def test_a_branch_that_diverges(train):

    class Break(Hook):

        def before_train_iter(self, runner, batch_idx, data_batch):
            if runner.iter == 9:
                runner.model.branches.vit.head.fc.bias.data.fill_(math.nan)

    runs = [
        train(str(graphed), graphed, hooks=[Break()], on_divergence='drop')
        for graphed in (False, True)
    ]
    assert equal(*runs) and runs[1][1].step.replays > 5
    assert runs[1][0].model.alive.tolist() == [True, False]


def test_a_hook_that_changes_the_model(train):
    """It is looked at before the first step of an epoch."""

    class Move(Hook):

        def before_train_epoch(self, runner):
            if runner.epoch == 3:
                weight = runner.model.branches.vit.head.fc.weight
                weight.data = weight.data.clone()

    runs = [
        train(str(graphed), graphed, hooks=[Move()])
        for graphed in (False, True)
    ]
    assert equal(*runs) and runs[1][1].step.recordings >= 3


def test_the_default_and_auto_on_a_cpu(tiny_runner, monkeypatch, capfd):
    runner = tiny_runner(epochs=1, cuda_graph='auto')
    log = Log()
    runner.register_hook(log)
    runner.train()
    assert log.step is None and len(log.rows) == 4
    assert 'cuda_graph:' not in capfd.readouterr().err
    # Not even where a graph could be recorded.
    monkeypatch.setattr(graph_setting, 'make_recorder', None)
    for settings in ({}, dict(cuda_graph=False)):
        runner.cfg = Config(settings)
        assert graph_setting.recorded_step(runner, False) is None


@pytest.mark.parametrize('setting, message', [
    (True, 'cuda_graph=True needs a GPU by NVIDIA'),
    ('yes', "cuda_graph must be one of .*; got 'yes'"),
])
def test_refused_on_a_cpu(tiny_runner, setting, message):
    runner = tiny_runner(cuda_graph=setting)
    with pytest.raises(ConfigError, match=message) as info:
        runner.train()
    assert '\n' not in str(info.value) and not runner.started


class Plain(SGD):
    """An optimizer of a user's."""


OBSTACLES = {
    'optim_wrapper.accumulative_counts, 2': {
        'optim_wrapper.accumulative_counts': 2
    },
    'clip_grad.error_if_nonfinite': {
        'optim_wrapper.clip_grad': dict(max_norm=1., error_if_nonfinite=True)
    },
    'clip_grad.error_if_nonfinite, which': {
        'model.branches.vit.clip_grad':
        dict(max_norm=1., error_if_nonfinite=True)
    },
    'clip_grad under another default_hooks.runtime_info': {
        'optim_wrapper.clip_grad': dict(max_norm=1.),
        'default_hooks.runtime_info.type': 'RuntimeInfoHook'
    },
    'optim_wrapper.optimizer.type SGD, which is neither': {
        'optim_wrapper.optimizer.fused': False
    },
    'optim_wrapper.optimizer.type Plain, which is neither': {
        'optim_wrapper.optimizer.type': 'mmengine.Plain'
    },
    'param_scheduler.type CosineAnnealingMomentum, which changes momentum': {
        'param_scheduler': [dict(type='CosineAnnealingMomentum', T_max=4)]
    },
    'recompute of model.branches.vit': {
        'model.branches.vit.recompute': True
    },
    'compile with CUDA graphs of its own': {
        'compile.mode': 'reduce-overhead'
    },
    'model.type ImageClassifier, which is no': {
        'model':
        dict(
            type='ImageClassifier',
            backbone=dict(type='mcod_plugin.CifarResNet', depth=8, width=4),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=10, in_channels=16),
            _delete_=True),
        'custom_hooks': [],
        'val_evaluator':
        dict(type='Accuracy', _delete_=True)
    }
}


@pytest.mark.parametrize('words', OBSTACLES)
def test_what_it_does_not_go_with(tiny_runner, monkeypatch, words):
    monkeypatch.setattr(graph_setting, 'make_recorder',
                        lambda runner: TapeRecorder)
    monkeypatch.setitem(OPTIMIZERS.module_dict, 'Plain', Plain)
    changes = copy.deepcopy(OBSTACLES[words])
    runner = tiny_runner(cuda_graph=True, epochs=1, **changes)
    with pytest.raises(ConfigError) as info:
        runner.train()
    text = str(info.value)
    assert text.startswith('cuda_graph=True does not go with')
    assert words in text and '\n' not in text and not runner.started
    # With 'auto' it is told, and the step is not recorded.
    told = []
    monkeypatch.setattr(runner.logger, 'warning', told.append)
    runner.cfg.cuda_graph = 'auto'
    assert graph_setting.recorded_step(runner,
                                       words.startswith('compile')) is None
    assert len(told) == 1 and words in told[0]
