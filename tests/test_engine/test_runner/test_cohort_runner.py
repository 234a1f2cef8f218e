import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from socket import gethostname

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import CheckpointHook, Hook
from mmengine.registry import HOOKS
from mmpretrain import get_model
from timm.layers import BatchNormAct2d

from mcod_plugin.engine.hooks import BranchCheckpointHook
from mcod_plugin.engine.runner import processes
from mcod_plugin.engine.runner.cohort_runner import LOCK
from mcod_plugin.engine.runner.processes import (share_batch_norm,
                                                 wrap_for_processes)
from mcod_plugin.engine.runner.resuming_runner import VALIDATED
from mcod_plugin.errors import ConfigError


def log_of(folder):
    return ''.join(path.read_text() for path in folder.rglob('*.log'))


def test_input_size_is_that_of_the_data(tiny_runner):
    # The pipeline of the training images crops them to 16 pixels, which the
    # transformer insists on; it is no size that the model would guess.
    runner = tiny_runner(**{'model.input_size': None})
    assert runner.model.input_size == (16, 16)


@pytest.mark.parametrize('size, expected', [((24, 24), 24),
                                            ((24, 32), (24, 32))])
def test_config_in_the_work_directory_states_the_size(tiny_runner, size,
                                                      expected):
    """So it makes the model, also without the data."""
    pipeline = [
        dict(type='CenterCrop', crop_size=size[::-1]),
        dict(type='PackInputs')
    ]
    runner = tiny_runner(
        epochs=1,
        **{
            'model.input_size': None,
            'model.branches.vit.backbone.dynamic_img_size': True,
            **{
                f'{name}_dataloader.dataset.{key}': value
                for name in ('train', 'val', 'test')
                for key, value in (('size', 32), ('pipeline', pipeline))
            }
        })
    runner.train()
    (path, ) = Path(runner.work_dir).glob('*.py')
    cfg = Config.fromfile(path)
    assert cfg.model.input_size == expected
    checkpoint = torch.load(
        f'{runner.work_dir}/epoch_1.pth', weights_only=True)
    saved = Config.fromstring(checkpoint['meta']['cfg'], '.py')
    assert saved.model == cfg.model
    assert get_model(cfg).input_size == size


def test_checkpoint_of_another_cohort(tiny_runner):
    runner = tiny_runner('a', 1)
    runner.train()
    file = f'{runner.work_dir}/epoch_1.pth'
    other = tiny_runner('b', **{'model.branches.vit.backbone.embed_dim': 32})
    with pytest.raises(ConfigError, match=r'epoch_1\.pth: .*instead of'):
        other.load_checkpoint(file)
    # Asking for less strictness does not help.
    with pytest.raises(ConfigError, match='not of this cohort'):
        other.load_checkpoint(file, strict=False)


def test_loaded_weights_are_those_saved(tiny_runner):
    runner = tiny_runner('a', 1)
    runner.train()
    other = tiny_runner('b', **{'randomness.seed': 8})
    other.load_checkpoint(f'{runner.work_dir}/epoch_1.pth')
    state = other.model.state_dict()
    for key, value in runner.model.state_dict().items():
        assert torch.equal(state[key], value)


def test_resume_of_a_finished_run(tiny_runner):
    tiny_runner('a', 1).train()
    with pytest.raises(ConfigError, match='nothing to resume: .*epoch 1 of 1'):
        tiny_runner('a', 1, resume=True).train()


@pytest.mark.parametrize('by_epoch', [True, False])
def test_resume_of_iterations(tiny_runner, tmp_path, by_epoch):

    def make(iterations, **kwargs):
        return tiny_runner(
            'a',
            train_cfg=dict(
                by_epoch=False, max_iters=iterations, _delete_=True),
            **{
                'custom_hooks.0.by_epoch': False,
                'default_hooks.checkpoint.by_epoch': by_epoch
            },
            **kwargs)

    make(3).train()
    with pytest.raises(
            ConfigError,
            match='at iteration 3 of 3; raise train_cfg.max_iters to go on'):
        make(3, resume=True).train()
    resumed = make(5, resume=True)
    resumed.train()
    assert resumed.iter == 5
    loss = resumed.message_hub.get_scalar('train/loss')
    assert len(loss.data[0]) == 5
    assert 'last 3 iterations, this one lasts 5' in log_of(tmp_path)


CLIPPED = 'optim_wrapper.clip_grad clips by the norm over all branches'


@pytest.mark.parametrize('clip, frozen, told', [
    (dict(max_norm=1.), False, True),
    (dict(type='norm', max_norm=1.), False, True),
    (dict(type='value', clip_value=1.), False, False),
    (dict(max_norm=1.), True, False),
    (None, False, False),
])
def test_clip_grad_is_warned_of(tiny_runner, tmp_path, clip, frozen, told):
    runner = tiny_runner(**{
        'optim_wrapper.clip_grad': clip,
        'model.branches.vit.frozen': frozen
    })
    wrapper = runner.build_optim_wrapper(runner.cfg.optim_wrapper)
    assert wrapper.clip_grad_kwargs == (
        clip and {
            key: value
            for key, value in clip.items() if key != 'type'
        })
    assert log_of(tmp_path).count(CLIPPED) == told


def test_resume_with_nothing_there(tiny_runner, tmp_path):
    runner = tiny_runner(epochs=1, resume=True)
    runner.train()
    assert runner.epoch == 1
    assert f'Nothing to resume from in {runner.work_dir}: ' in log_of(tmp_path)


@pytest.mark.parametrize('size', [0, 1000])
def test_newest_intact_checkpoint(tiny_runner, tmp_path, size):
    runner = tiny_runner('a', 2)
    runner.train()
    expected = runner.model.state_dict()
    folder = Path(runner.work_dir)
    before = (folder / 'epoch_2.pth').read_bytes()
    (folder / 'epoch_2.pth').write_bytes(before[:size])
    runner = tiny_runner('a', 2, resume=True)
    runner.train()
    for key, value in runner.model.state_dict().items():
        assert torch.equal(value, expected[key])
    log = log_of(tmp_path)
    assert f'Skipped: checkpoint {folder}/epoch_2.pth is trunc' in log
    assert f'latest checkpoint {folder}/epoch_1.pth' in log
    runner.load_checkpoint(str(folder / 'epoch_2.pth'))

    # None is.
    for number in (1, 2):
        (folder / f'epoch_{number}.pth').write_bytes(before[:size])
    with pytest.raises(ConfigError) as info:
        tiny_runner('a', 2, resume=True).train()
    text = str(info.value)
    assert 'nothing to resume from: no checkpoint in ' in text
    assert text.index('epoch_2.pth') < text.index('epoch_1.pth')
    assert '\n' not in text


def test_checkpoint_that_is_refused_is_not_passed_over(tiny_runner):
    runner = tiny_runner('a', 2)
    runner.train()
    path = Path(runner.work_dir) / 'epoch_2.pth'
    torch.save(dict(state_dict={}, meta=Path), path)
    with pytest.raises(ConfigError, match='epoch_2.pth .* was refused'):
        tiny_runner('a', 3, resume=True).train()


class Stop(Hook):
    """Breaks a run off in a validation."""

    def __init__(self, done):
        self.done = done

    def before_val_epoch(self, runner):
        if self.done in (runner.iter, runner.epoch):
            raise KeyboardInterrupt


@pytest.mark.parametrize('by_epoch', [True, False])
@pytest.mark.parametrize('last', [True, False])
def test_validation_that_was_cut_off(tiny_runner, tmp_path, by_epoch, last):
    """No hook of the config need ask for it to be made up for."""

    def make(name, **kwargs):
        changes = {'default_hooks.checkpoint.max_keep_ckpts': 1}
        if not by_epoch:
            changes.update({
                'train_cfg':
                dict(
                    by_epoch=False, max_iters=6, val_interval=2,
                    _delete_=True),
                'custom_hooks.0.by_epoch':
                False,
                'default_hooks.checkpoint.by_epoch':
                False,
                'default_hooks.checkpoint.interval':
                2,
            })
        return tiny_runner(name, 3, **changes, **kwargs)

    def files(runner):
        return sorted(
            path.name for path in Path(runner.work_dir).glob('*.pth'))

    whole = make('whole')
    whole.train()
    broken = make('broken')
    step = (3 if last else 2) * (1 if by_epoch else 2)
    broken.register_hook(Stop(step))
    with pytest.raises(KeyboardInterrupt):
        broken.train()
    before = log_of(tmp_path)
    resumed = make('broken', resume=True)
    resumed.train()
    assert (f'The validation after {step} ' in log_of(tmp_path)
            and f'The validation after {step} ' not in before)
    assert log_of(tmp_path / 'broken').count('Result after ') == 1
    if last or by_epoch:
        # Iterations are not resumed exactly.
        assert files(resumed) == files(whole)
        for key in ('cohort_top1', 'best_score_vit/top1', VALIDATED):
            assert resumed.message_hub.get_info(
                key) == whole.message_hub.get_info(key)
    with pytest.raises(ConfigError, match='nothing to resume'):
        make('broken', resume=True).train()


def test_default_hooks_can_be_left_out(tiny_runner):
    """Ours like MMEngine's."""
    names = ('label_check', 'buffer_sync', 'run_record', 'timer')
    runner = tiny_runner(**{f'default_hooks.{name}': None for name in names})
    kinds = {type(hook).__name__ for hook in runner.hooks}
    assert not kinds & {
        'LabelCheckHook', 'BufferSyncHook', 'RunRecordHook', 'IterTimerHook'
    }
    assert 'EpochSeedHook' in kinds


def test_log_of_a_validation_holds_its_metrics(tiny_runner, tmp_path):
    """MMEngine logs whatever begins with val in the message hub."""
    tiny_runner(epochs=1).train()
    text, = (
        text for text in re.findall(r'Epoch\(val\).*(?:\n    .*)*',
                                    log_of(tmp_path)) if 'ensemble' in text)
    lines = [re.findall(r'([\w/]+): ', line) for line in text.splitlines()]
    assert lines == [['diversity/disagreement', 'data_time', 'time'],
                     ['resnet/top1'], ['vit/top1'], ['ensemble/top1']]


def test_run_that_ended_without_its_record(tiny_runner, tmp_path):
    """It is only made anew."""
    record = tmp_path / 'result.json'
    hooks = [
        dict(type='mcod_plugin.DiscontinuousKDHook'),
        dict(type='mcod_plugin.RunRecordHook', out=str(record))
    ]
    runner = tiny_runner('a', 2, custom_hooks=hooks)
    runner.train()
    before = json.loads(record.read_text())
    with pytest.raises(ConfigError, match='nothing to resume'):
        tiny_runner('a', 2, resume=True, custom_hooks=hooks).train()
    record.unlink()
    tiny_runner('a', 2, resume=True, custom_hooks=hooks).train()
    after = json.loads(record.read_text())
    for key in ('curves', 'last', 'train_loss', 'kd_weight'):
        assert after[key] == before[key]


def test_longer_run_is_warned_of(tiny_runner, tmp_path):
    tiny_runner('a', 1).train()
    tiny_runner('a', 2, resume=True).train()
    assert 'was to last 1 epochs, this one lasts 2' in log_of(tmp_path)


def test_frozen_branch_without_weights_is_warned_of(tiny_runner, tmp_path):
    told = 'model.branches.vit is frozen and teaches by random weights'
    frozen = {'model.branches.vit.frozen': True}
    tiny_runner('random', epochs=1, **frozen).train()
    assert told in log_of(tmp_path / 'random')
    checkpoint = str(tmp_path / 'random' / 'epoch_1.pth')
    init = dict(
        type='Pretrained', checkpoint=checkpoint, prefix='branches.vit')
    for name, given in (('branch', {
            'model.branches.vit.init_cfg': init
    }), ('cohort', dict(load_from=checkpoint))):
        tiny_runner(name, epochs=1, **frozen, **given).train()
        assert told not in log_of(tmp_path / name)


@pytest.mark.parametrize('size, dropped, words', [
    (63, False, 'last batch has one image (64 in batches of 63)'),
    (63, True, None),
    (32, False, None),
    (1, False, 'each batch has one image (64 in batches of 1)'),
    (1, True, 'set a greater batch_size'),
])
def test_batch_of_one_image(tiny_runner, size, dropped, words):
    """The transformer would take it, batch norm over one pixel does not."""
    net = dict(
        backbone=dict(
            type='TIMMBackbone', model_name='resnet18', channels=(4, 4, 8, 8)),
        head=dict(type='LinearClsHead', num_classes=10))
    runner = tiny_runner(
        epochs=1,
        **{
            'model.branches.net': net,
            'train_dataloader.batch_size': size,
            'train_dataloader.drop_last': dropped,
            'train_dataloader.num_batch_per_epoch': None
        })
    if words is None:
        runner.train()
    else:
        with pytest.raises(ConfigError) as info:
            runner.train()
        assert words in str(info.value) and not runner.started
        assert 'branches.net.backbone' in str(info.value)


CLAIM = """\
import sys, time
from mcod_plugin.utils.files import claim
with claim(sys.argv[1], 'somebody') as other:
    print(other, flush=True)
    if other is None:
        sys.stdin.read()
"""


def test_two_trainings_in_one_work_directory(tiny_runner, tmp_path):
    ask = [sys.executable, '-c', CLAIM, str(tmp_path / 'run' / LOCK)]
    found = []

    @HOOKS.register_module(force=True)
    class Ask(Hook):

        def before_train_epoch(self, runner):
            found.append(subprocess.run(ask, capture_output=True, text=True))

    tiny_runner(epochs=1, custom_hooks=[dict(type='Ask')]).train()
    assert found[0].stdout == f'process {os.getpid()} on {gethostname()}\n'
    before = {path: path.stat() for path in (tmp_path / 'run').iterdir()}
    assert tmp_path / 'run' / LOCK not in before
    runner = tiny_runner(epochs=2, resume=True)
    with subprocess.Popen(
            ask, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True) as other:
        assert other.stdout.readline() == 'None\n'
        with pytest.raises(ConfigError) as info:
            runner.train()
    assert str(info.value) == (
        f'work_dir {tmp_path}/run is in use by another training, somebody; '
        'wait for its end, or name another --work-dir; if that process is '
        f'gone, remove {tmp_path}/run/training.lock')
    assert not runner.started
    runner.undo()
    assert {path: path.stat()
            for path in (tmp_path / 'run').iterdir()}.keys() == before.keys()
    # It has ended, so the next one may.
    runner = tiny_runner(epochs=2, resume=True)
    runner.train()
    assert runner.epoch == 2


def test_run_of_the_same_second(tiny_runner, monkeypatch):
    """What its log tells stays where it is."""
    now = time.time()
    monkeypatch.setattr(time, 'time', lambda: now)
    runner = tiny_runner(epochs=1)
    before = sorted(Path(runner.work_dir).rglob('*'))
    other = tiny_runner(epochs=1)
    assert other.log_dir == runner.log_dir
    other.undo()
    assert sorted(Path(runner.work_dir).rglob('*')) == before
    runner.undo()
    assert not Path(runner.work_dir).exists()


def test_started(tiny_runner):
    runner = tiny_runner(epochs=1)
    assert not runner.started
    runner.train()
    assert runner.started


@pytest.mark.parametrize('action', ['test', 'val'])
def test_an_evaluation_leaves_the_config_of_the_training(
        tiny_runner, tmp_path, action):

    def configs():
        return {
            path.name: path.read_text()
            for path in (tmp_path / 'run').glob('*.py')
        }

    tiny_runner(epochs=1).train()
    trained = configs()
    assert len(trained) == 1
    other = tiny_runner(**{'custom_hooks.0.gap': (9, 9)})
    getattr(other, action)()
    assert other.started and configs() == trained


def test_checkpoints_of_the_hook_of_the_toolbox(tiny_runner):
    changes = {
        'default_hooks.checkpoint':
        dict(
            _delete_=True,
            type='CheckpointHook',
            interval=1,
            filename_tmpl='at_{}.pth')
    }
    tiny_runner(epochs=1, **changes).train()
    runner = tiny_runner(resume=True, **changes)
    file = f'{runner.work_dir}/at_1.pth'
    assert torch.load(file, weights_only=True)['meta']['epoch'] == 1
    runner.train()
    assert runner.epoch == 2


@pytest.mark.parametrize('hooks', [
    None,
    dict(checkpoint=dict(type=CheckpointHook, interval=1)),
    dict(checkpoint=dict(type='mmengine.CheckpointHook', interval=1)),
])
def test_hook_of_checkpoints_that_hold_data_only(tiny_runner, hooks):
    runner = tiny_runner(**{'default_hooks.checkpoint': None})
    runner.register_default_hooks(hooks)
    found = [hook for hook in runner.hooks if isinstance(hook, CheckpointHook)]
    assert [type(hook) for hook in found] == [BranchCheckpointHook]
    assert found[0].interval == 1


def test_no_checkpoints(tiny_runner):
    runner = tiny_runner(epochs=1, **{'default_hooks.checkpoint': None})
    assert not any(isinstance(hook, CheckpointHook) for hook in runner.hooks)


def switched(**recipe):
    """Another recipe from the second epoch on."""
    schedule = [dict(action_epoch=2, **recipe)]
    return dict(
        custom_hooks=[dict(type='SwitchRecipeHook', schedule=schedule)])


@pytest.mark.parametrize('changes, words', [
    (dict(activation_checkpointing=['branches.resnet']),
     'activation_checkpointing would leave branches untrained; set '
     'model.recompute=True'),
    (switched(train_pipeline=[dict(type='PackInputs')]),
     'custom_hooks: SwitchRecipeHook cannot switch the train_pipeline of an '
     'InMemoryDataset'),
    ({
        **switched(batch_augments=dict(augments=dict(type='Mixup', alpha=.2))),
        'model.branches.resnet.head':
        dict(type='ArcFaceClsHead', num_classes=10)
    }, 'custom_hooks: SwitchRecipeHook must not mix images (Mixup)'),
    (switched(loss=dict(type='LabelSmoothLoss', label_smooth_val=.1)),
     'custom_hooks: SwitchRecipeHook cannot switch the loss of a cohort'),
    (dict(strategy=dict(type='DDPStrategy')),
     "strategy {'type': 'DDPStrategy'} is of FlexibleRunner"),
    ({
        'optim_wrapper.optimizer':
        dict(_delete_=True, type='ZeroRedundancyOptimizer')
    }, 'optim_wrapper.optimizer.type ZeroRedundancyOptimizer would wait'),
])
def test_what_would_break_a_cohort(tiny_runner, changes, words):
    with pytest.raises(ConfigError) as info:
        tiny_runner(**changes).train()
    assert str(info.value).startswith(words)


# What MMEngine and MMPretrain offer besides, all at once.
HOOKS_OF_OTHERS = [
    dict(
        type='EarlyStoppingHook',
        monitor='ensemble/top1',
        min_delta=100,
        patience=1),
    dict(type='SyncBuffersHook'),
    dict(type='ProfilerHook', profile_times=1),
    dict(type='EmptyCacheHook'),
    dict(type='PreciseBNHook', num_samples=64),
    dict(
        type='SwitchRecipeHook',
        schedule=[
            dict(
                action_epoch=1,
                batch_augments=dict(augments=dict(type='Mixup', alpha=.2)))
        ]),
]


def test_what_the_toolbox_offers_besides(tiny_runner):
    """It does in a cohort what it does in a run of one classifier."""
    runner = tiny_runner(
        epochs=4,
        **{
            'custom_hooks': HOOKS_OF_OTHERS,
            'auto_scale_lr': dict(enable=True, base_batch_size=64),
            'efficient_conv_bn_eval': ['branches.resnet.backbone'],
            'param_scheduler': [dict(type='CosineAnnealingMomentum', T_max=9)],
            'randomness': dict(seed=3, deterministic=True),
            'default_hooks.timer': dict(type='IterTimerHook'),
        })
    resnet = runner.model.branches.resnet
    means = {
        name: value.clone()
        for name, value in resnet.named_buffers() if 'mean' in name
    }
    try:
        runner.train()
    finally:
        torch.use_deterministic_algorithms(False)
    # stopped early, with a quarter of the rate and another momentum
    assert runner.epoch == 2
    group, = runner.optim_wrapper.param_groups
    assert group['lr'] == pytest.approx(.05 / 4)
    assert group['momentum'] != .9
    assert len(runner.model.data_preprocessor.batch_augments.augments) == 1
    assert all(not torch.equal(value, means[name])
               for name, value in resnet.named_buffers() if name in means)


def test_wrapper_that_shards():
    with pytest.raises(ConfigError, match='MMFullyShardedDataParallel shards'):
        wrap_for_processes(
            torch.nn.Linear(1, 1), dict(type='MMFullyShardedDataParallel'),
            False)


def test_batch_norm_of_timm_keeps_its_activation(monkeypatch):
    """Which PyTorch's own conversion drops."""
    monkeypatch.setattr(processes, 'get_device', lambda: 'cuda')
    model = torch.nn.Sequential(BatchNormAct2d(3))
    model = share_batch_norm(model, 'torch').eval()
    assert isinstance(model[0], torch.nn.SyncBatchNorm)
    assert model(torch.full((1, 3, 1, 1), -2.)).eq(0).all()


def test_shared_batch_norm_needs_a_gpu(monkeypatch):
    monkeypatch.setattr(processes, 'get_device', lambda: 'cpu')
    with pytest.raises(ConfigError, match="sync_bn='torch' needs GPUs"):
        share_batch_norm(torch.nn.Sequential(), 'torch')
    with pytest.raises(ConfigError, match="sync_bn must be .*; got 'mmcv'"):
        share_batch_norm(torch.nn.Sequential(), 'mmcv')


def test_checkpoint_of_a_hook(tiny_runner):
    """MMEngine's arguments, by position as well."""
    runner = tiny_runner(epochs=1)
    runner.train()
    runner.save_checkpoint(runner.work_dir, 'mine.pth', None, False, False)
    found = torch.load(
        Path(runner.work_dir, 'mine.pth'), weights_only=True)
    assert 'state_dict' in found
    assert 'optimizer' not in found and 'param_schedulers' not in found
