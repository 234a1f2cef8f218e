import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook

from mcod_plugin.engine.hooks import run_record_hook
from mcod_plugin.engine.hooks.run_record_hook import best, columns, numbers
from mcod_plugin.errors import ConfigError
from mcod_plugin.registry import HOOKS
from mcod_plugin.utils.machine import describe_machine

KD = dict(type='mcod_plugin.DiscontinuousKDHook', gap=(1, 0), weight=(.5, 2.))
# What differs from run to run.
COSTS = ('train_seconds', 'seconds', 'peak_memory_bytes', 'date', 'commit',
         'dirty')


class Tape(Hook):
    """Notes by itself what the record should hold."""

    priority = 'LOWEST'

    def __init__(self):
        self.epochs, self.losses, self.weights, self.told = [], [], [], []
        self.metrics, self.ratios = [], []

    def before_train_epoch(self, runner):
        self.losses.append(dict(resnet=[], vit=[]))
        self.ratios.append(dict(resnet=[], vit=[]))

    def after_train_iter(self, runner, batch_idx, data_batch, outputs):
        for name, values in self.losses[-1].items():
            values.append(outputs[f'{name}.loss_ce'].item())
            if f'{name}.kd_ratio' in outputs:
                self.ratios[-1][name].append(
                    outputs[f'{name}.kd_ratio'].item())
        self.weight = runner.model.kd_weight
        path = Path(runner.work_dir) / 'progress.json'
        self.told.append(path.exists() and json.loads(path.read_text()))

    def after_train_epoch(self, runner):
        self.weights.append(self.weight)

    def after_val_epoch(self, runner, metrics):
        self.epochs.append(runner.epoch)
        self.metrics.append(metrics)


class Stop(Hook):
    """Breaks a run off, as if it was killed: nothing else is done."""

    priority = 'LOWEST'

    def __init__(self, event, epoch, step=None):
        self.epoch, self.step = epoch, step
        setattr(self, event, self.stop)

    def stop(self, runner, batch_idx=None, **kwargs):
        if runner.epoch == self.epoch and batch_idx == self.step:
            raise KeyboardInterrupt


def train(runner, *hooks):
    for hook in hooks:
        runner.register_hook(hook)
    runner.train()


def read(runner, name='record.json'):
    return json.loads((Path(runner.work_dir) / name).read_text())


def recorded(**kwargs):
    return [KD, dict(type='mcod_plugin.RunRecordHook', **kwargs)]


@pytest.fixture
def make(tiny_runner):
    """Builds runners that are recorded."""

    def make(*args, custom_hooks=None, **changes):
        return tiny_runner(
            *args, custom_hooks=custom_hooks or recorded(), **changes)

    return make


class Memory(Hook):
    """Memory whose peak is forgotten with each line of the log, as MMEngine
    does with a GPU's."""

    priority = 'LOWEST'

    def __init__(self, most):
        self.most, self.peak = most, 0

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.use('train', runner.epoch, batch_idx)

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        self.use('val', runner.epoch, batch_idx)

    def use(self, *moment):
        self.peak = max(self.peak, 1000 if moment == self.most else 10)

    def after_train_iter(self, runner, batch_idx, *args, **kwargs):
        if self.every_n_inner_iters(batch_idx, 2):
            self.peak = 0

    after_val_iter = after_train_iter


@pytest.mark.parametrize('most', [('train', 0, 0), ('train', 0, 3),
                                  ('train', 1, 4), ('val', 1, 1),
                                  ('val', 2, 2)])
def test_peak_of_memory_outlives_the_log(make, monkeypatch, most):
    # Of each five steps the log tells the second and the fourth.
    runner = make(**{'train_dataloader.batch_size': 13})
    memory = Memory(most)
    monkeypatch.setattr(run_record_hook, 'peak_memory', lambda: memory.peak)
    train(runner, memory)
    assert read(runner)['peak_memory_bytes'] == 1000


def test_record_of_a_run(make):
    info = dict(study='tiny', method='mcod', sizes=(1, 2), seed=9)
    runner = make(
        epochs=3,
        custom_hooks=recorded(info=info),
        **{'train_dataloader.batch_size': 24})
    tape = Tape()
    train(runner, tape)
    record = read(runner)
    assert list(record)[:3] == ['study', 'method', 'sizes']
    assert record['sizes'] == [1, 2]
    assert record['branches'] == ['resnet', 'vit']
    # 64 images in three steps, of which the last is of 16
    assert [record[key] for key in ('epochs', 'iterations')] == [3, 9]
    assert record['batch_size'] == 24
    # that of the run, whatever the info says
    assert record['seed'] == 3
    assert 0 < record['train_seconds'] < record['seconds'] < 600
    assert record['peak_memory_bytes'] > 2**20
    machine = describe_machine()
    for key in ('device', 'versions'):
        assert record[key] == machine[key]
    assert machine.keys() <= record.keys()
    if not torch.cuda.is_available():
        assert record['threads'] == torch.get_num_threads()
    assert record['precision'] == 'float32'

    assert tape.epochs == [1, 2, 3]
    assert record['curves'] == dict(
        epoch=[1, 2, 3],
        **{
            key: [metrics[key] for metrics in tape.metrics]
            for key in tape.metrics[0]
        })
    assert 'diversity/disagreement' in record['curves']
    assert read(runner, 'curves.json') == record['curves']
    assert record['last'] == tape.metrics[-1]
    for name in ('resnet', 'vit', 'ensemble'):
        curve = record['curves'][f'{name}/top1']
        at = int(np.argmax(curve))
        assert record['best'][name] == [curve[at], at + 1]
    assert len(record['best']) == 3

    assert record['kd_weight'] == tape.weights
    assert len(set(record['kd_weight'])) > 1
    for name in ('resnet', 'vit'):
        expected = [np.mean(losses[name]) for losses in tape.losses]
        np.testing.assert_allclose(record['train_loss'][name], expected, 1e-6)
        ratios = [ratio[name] for ratio in tape.ratios]
        assert list(map(bool, ratios)) == [weight > 0
                                           for weight in tape.weights]
        np.testing.assert_allclose(record['kd_ratio'][name],
                                   [np.mean(x or 0) for x in ratios], 1e-6)
    progress = read(runner, 'progress.json')
    assert progress.pop('seconds') < record['seconds']
    assert progress == dict(iter=9, max_iters=9)
    # nothing half-written
    assert not list(Path(runner.work_dir).rglob('*.part'))


def test_threads_mean_nothing_on_a_gpu(make, monkeypatch):

    class Gpu(Hook):
        """Makes the machine one with a GPU when the training is over."""

        priority = 'LOWEST'

        def after_val_epoch(self, runner, metrics):
            monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)

    runner = make(epochs=1)
    train(runner, Gpu())
    assert read(runner)['threads'] is None


def test_progress(make, monkeypatch):
    tape = Tape()
    runner = make(epochs=2)
    train(runner, tape)
    # less than five seconds passed
    assert [told and told['iter']
            for told in tape.told] == 4 * [False] + 4 * [4]
    monkeypatch.setattr(run_record_hook, 'PERIOD', 0)
    tape = Tape()
    train(make('other', epochs=2), tape)
    assert [told['iter'] for told in tape.told] == list(range(1, 9))
    seconds = [told['seconds'] for told in tape.told]
    assert 0 < seconds[0] and seconds == sorted(seconds)


def test_schedule_by_iteration(make):
    hooks = recorded()
    hooks[0] = dict(KD, by_epoch=False, on=1, gap=(0, 0))
    runner = make(epochs=2, custom_hooks=hooks)
    tape = Tape()
    train(runner, tape)
    # from 0.5 to 2 in eight iterations, the fourth and the last of them
    assert read(runner)['kd_weight'] == pytest.approx([.5 + 1.5 * 3 / 7, 2.])


def test_distilled_late(make):
    hooks = recorded()
    hooks[0] = dict(KD, gap=(0, 0), begin=2)
    runner = make(epochs=3, custom_hooks=hooks)
    train(runner)
    record = read(runner)
    assert record['kd_weight'] == [0, 0, .5]
    for course in record['kd_ratio'].values():
        assert course[:2] == [0, 0] and course[2] > 0 and len(course) == 3
    assert list(record['kd_ratio']) == ['resnet', 'vit']


@pytest.mark.parametrize('changes, events', [
    ({}, [
        Stop('before_train_epoch', 2),
        Stop('after_train_iter', 1, 2),
        Stop('before_val_epoch', 1),
        Stop('after_val_iter', 2, 1),
        # while the first best checkpoint is written
        Stop('before_save_checkpoint', 1),
        Stop('after_val_epoch', 2),
    ]),
    ({
        'train_cfg.val_begin': 2,
        'train_cfg.val_interval': 2
    }, [
        Stop('before_train_epoch', 1),
        Stop('before_val_epoch', 2),
        Stop('after_train_iter', 2, 1),
    ]),
])
def test_killed_and_resumed(make, changes, events):
    """Several times, at any moment."""
    whole = make('whole', 3, **changes)
    tape = Tape()
    train(whole, tape)
    expected = read(whole)
    assert expected['curves']['epoch'] == tape.epochs
    for number, event in enumerate(events):
        work_dir = f'broken{number}'
        runner = make(work_dir, 3, **changes)
        with pytest.raises(KeyboardInterrupt):
            train(runner, event)
        folder = Path(runner.work_dir)
        assert not (folder / 'record.json').exists()
        # What an epoch that was cut off has cost is not counted.
        state = torch.load(
            max(folder.glob('epoch_*.pth')), weights_only=True)['run_record']
        runner = make(work_dir, 3, resume=True, **changes)
        train(runner, Tape())
        record = read(runner)
        for key in ('train_seconds', 'seconds'):
            assert record[key] > state[key] > 0
        assert record['peak_memory_bytes'] >= state['peak_memory_bytes']
        for key in COSTS:
            record.pop(key), expected.pop(key, None)
        assert record == expected, event.__dict__
        assert read(runner, 'curves.json') == record['curves']
        # Whatever else depends on the validation.
        for key in ('cohort_top1', 'best_score_vit/top1'):
            assert runner.message_hub.get_info(
                key) == whole.message_hub.get_info(key)


def test_validations_are_made_up_for_only_if_due(make):
    changes = {'train_cfg.val_interval': 2}
    found = []
    for number, event in enumerate([
            Stop('before_train_epoch', 1),
            Stop('before_val_epoch', 2),
    ]):
        work_dir = f'broken{number}'
        with pytest.raises(KeyboardInterrupt):
            train(make(work_dir, 3, **changes), event)
        tape = Tape()
        train(make(work_dir, 3, resume=True, **changes), tape)
        found.append(tape.epochs)
    assert found == [[2, 3], [2, 3]]


@pytest.mark.parametrize('again', ['an epoch', 'the validation'])
def test_killed_in_the_last_validation(make, again):
    whole = make('whole', 2)
    train(whole)
    runner = make('broken', 2)
    with pytest.raises(KeyboardInterrupt):
        train(runner, Stop('before_val_epoch', 2))
    folder = Path(runner.work_dir)
    number = 1 if again == 'an epoch' else 2
    changes = dict(load_from=str(folder / f'epoch_{number}.pth'))
    runner = make('broken', 2, resume=True, **changes)
    tape = Tape()
    train(runner, tape)
    assert (tape.losses == []) == (number == 2)
    records = [read(whole), read(runner)]
    for record in records:
        for key in COSTS:
            record.pop(key)
    assert records[0] == records[1]


def test_fresh_run_in_the_same_place(make):
    runner = make('run', 2)
    train(runner)
    old = read(runner)
    runner = make('run', 2, **{'randomness.seed': 4})
    with pytest.raises(KeyboardInterrupt):
        train(runner, Stop('after_train_iter', 0, 1))
    # A record is one of a run that has ended.
    assert not (Path(runner.work_dir) / 'record.json').exists()
    assert read(runner, 'curves.json') == dict(epoch=[])
    runner = make('run', 2, **{'randomness.seed': 4})
    train(runner)
    record = read(runner)
    assert record['curves']['epoch'] == [1, 2]
    assert record['train_loss'] != old['train_loss']


def test_trained_from_a_checkpoint(make):
    """Its record is none of the new run's."""
    runner = make('run', 2)
    train(runner)
    checkpoint = str(Path(runner.work_dir) / 'epoch_2.pth')
    runner = make('other', 1, load_from=checkpoint)
    train(runner)
    record = read(runner)
    assert record['curves']['epoch'] == [1]
    assert len(record['kd_weight']) == record['epochs'] == 1


def test_without_validation(make, tmp_path):
    out = tmp_path / 'it.json'
    runner = make(
        epochs=1,
        custom_hooks=recorded(out=str(out)),
        val_cfg=None,
        val_dataloader=None,
        val_evaluator=None,
        **{
            'optim_wrapper.type': 'mcod_plugin.AutocastOptimWrapper',
            'optim_wrapper.dtype': 'bfloat16'
        })
    train(runner)
    record = json.loads(out.read_text())
    assert record['curves'] == dict(epoch=[])
    assert record['last'] == record['best'] == {}
    assert len(record['train_loss']['vit']) == 1
    assert record['precision'] == 'bfloat16'


def test_run_that_went_on_in_another_precision(make, tmp_path):
    hooks = recorded(out=str(tmp_path / 'it.json'))
    bfloat16 = {
        'optim_wrapper.type': 'mcod_plugin.AutocastOptimWrapper',
        'optim_wrapper.dtype': 'bfloat16'
    }
    train(make('run', 1, custom_hooks=hooks, **bfloat16))
    train(make('run', 2, custom_hooks=hooks, resume=True))
    record = json.loads((tmp_path / 'it.json').read_text())
    assert record['precision'] == 'bfloat16, float32'


def test_validation_alone_is_not_recorded(make):
    runner = make()
    runner.val()
    assert not list(Path(runner.work_dir).glob('*.json'))


# Mistakes


@pytest.mark.parametrize('settings, words', [
    (dict(out='record.txt'), 'out of RunRecordHook must be the path of a '
     ".json file; got 'record.txt'"),
    (dict(info=dict(made=object())), 'info of RunRecordHook must be plain '
     'data: Object of type object is not JSON serializable'),
    (dict(info=['mcod']), "info of RunRecordHook must be a dict; got "
     "['mcod']"),
])
def test_bad_settings(settings, words):
    with pytest.raises(ConfigError) as info:
        HOOKS.build(dict(type='mcod_plugin.RunRecordHook', **settings))
    assert str(info.value) == words


@pytest.mark.parametrize('changes, words', [
    (dict(custom_hooks=recorded(out='not/there/record.json')),
     'out of RunRecordHook not/there/record.json: the folder '),
    (dict(train_cfg=dict(_delete_=True, by_epoch=False, max_iters=2)),
     'RunRecordHook counts in epochs, so train_cfg.by_epoch must be True'),
])
def test_runs_that_cannot_be_recorded(make, changes, words):
    if 'train_cfg' in changes:
        changes['custom_hooks'] = recorded()[1:]
    with pytest.raises(ConfigError) as info:
        make(**changes).train()
    assert str(info.value).startswith(words)
    assert '\n' not in str(info.value)


def test_no_cohort(make):
    runner = make(
        custom_hooks=recorded()[1:],
        model=dict(
            _delete_=True,
            type='ImageClassifier',
            data_preprocessor=dict(
                type='mcod_plugin.BatchDataPreprocessor', num_classes=10),
            backbone=dict(type='mcod_plugin.CifarResNet', depth=8),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=10, in_channels=64)))
    with pytest.raises(
            ConfigError,
            match='RunRecordHook needs a cohort .*; got ImageClassifier'):
        runner.train()


def test_run_that_was_begun_without_it(make):
    make('run', 1, custom_hooks=[KD]).train()
    runner = make('run', 2, resume=True)
    with pytest.raises(
            ConfigError,
            match='begun without it, .* lack the first 1 epochs; start '
            'without --resume'):
        runner.train()


# Pure functions


def test_numbers():
    metrics = dict(a=1, b=np.float32(0.5), c='x', d=[1.], e=math.inf, f=None)
    found = numbers(metrics)
    assert found == dict(a=1., b=0.5, e=math.inf)
    assert all(type(value) is float for value in found.values())


def test_columns():
    assert columns([]) == dict(epoch=[])
    found = columns([dict(epoch=2, a=1.), dict(epoch=4, a=2., b=3.)])
    assert math.isnan(found['b'].pop(0))
    assert found == dict(epoch=[2, 4], a=[1., 2.], b=[3.])


def test_best():
    rows = [{
        'epoch': epoch,
        'ensemble/top1': ensemble,
        'ensemble/top5': 99.,
        'b/top1': 10. - epoch
    } for epoch, ensemble in ((1, 3.), (2, 7.), (3, 7.), (4, 5.))]
    assert best(rows) == dict(b=[9., 1], ensemble=[7., 2])
    assert list(best(rows)) == ['b', 'ensemble']
    assert best([]) == {}


def test_best_of_what_has_diverged():
    rows = [{
        'epoch': epoch,
        'a/top1': math.nan,
        'b/top1': b
    } for epoch, b in ((1, math.nan), (2, 7.), (3, math.nan))]
    assert best(rows) == dict(b=[7., 2])
