import copy
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook

from mcod_plugin.engine.hooks import run_record_hook
from mcod_plugin.errors import ConfigError
from mcod_plugin.registry import HOOKS
from mcod_plugin.runs.config_changes import json_config
from mcod_plugin.runs.metrics import best_top1
from mcod_plugin.utils.machine import describe_machine

KD = dict(type='mcod_plugin.DiscontinuousKDHook', gap=(1, 0), weight=(.5, 2.))
# What differs from run to run.
COSTS = ('train_seconds', 'seconds', 'peak_memory_bytes', 'date', 'commit',
         'dirty', 'config')


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
    assert record['last'] == tape.metrics[-1]
    for name in ('resnet', 'vit', 'ensemble'):
        curve = record['curves'][f'{name}/top1']
        at = int(np.argmax(curve))
        assert best_top1(record['curves'])[name] == (curve[at], at + 1)

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
    # from 0.5 to 2 in eight iterations, the mean of four each
    assert read(runner)['kd_weight'] == pytest.approx(
        [.5 + 1.5 * 1.5 / 7, .5 + 1.5 * 5.5 / 7])


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
        assert read(runner)['outcome'] == 'stopped'
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
        # Whatever else depends on the validation.
        key = 'best_score_vit/top1'
        assert runner.message_hub.get_info(key) == whole.message_hub.get_info(
            key)


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
    # Nothing is left of the old one.
    record = read(runner)
    assert (record['outcome'], record['seed']) == ('stopped', 4)
    assert record['curves'] == dict(epoch=[]) and record['kd_weight'] == []
    runner = make('run', 2, **{'randomness.seed': 4})
    train(runner)
    record = read(runner)
    assert record['curves']['epoch'] == [1, 2]
    assert record['train_loss'] != old['train_loss']


class Own(Hook):
    """A schedule of a user's own."""

    def __init__(self, weights):
        self.weights = weights

    def before_train_epoch(self, runner):
        runner.model.kd_weight = self.weights[runner.epoch]


@pytest.mark.parametrize('changes', [{}, dict(method='mine')])
def test_schedule_of_a_users_own(make, changes, tmp_path):
    runner = make(
        epochs=3, custom_hooks=[dict(type='IterTimerHook')], **changes)
    train(runner, Own([0., 2., .5]))
    record = read(runner)
    assert record['kd_weight'] == [0, 2, .5] and record['kd_on'] == [0, 1, 1]
    assert record.get('method') == changes.get('method')
    log = next(Path(runner.work_dir).glob('*/*.log')).read_text()
    assert 'The branches are not distilled so far: ' in log
    assert 'never distilled' not in log
    assert ('The branches were distilled in 66.7 % of the steps, mean weight '
            '0.833.') in log


def test_what_cannot_distil(make):
    runner = make(
        custom_hooks=[dict(type='IterTimerHook')], **{'model.distill': None})
    train(runner, Own([3., 2., .5]))
    record = read(runner)
    assert not any(record['kd_weight']) and not any(record['kd_on'])
    assert not any(
        key.endswith('loss_kd') for key in runner.message_hub.log_scalars)
    log = next(Path(runner.work_dir).glob('*/*.log')).read_text()
    assert 'The branches were never distilled.' in log


ITERATIONS = dict(
    train_cfg=dict(
        _delete_=True, by_epoch=False, max_iters=7, val_interval=3),
    default_hooks=dict(checkpoint=dict(by_epoch=False, interval=2)),
    custom_hooks=[
        dict(
            type='mcod_plugin.DiscontinuousKDHook',
            by_epoch=False,
            on=2,
            gap=(2, 2),
            weight=(1., 1.))
    ])


def test_run_that_counts_in_iterations(make):
    runner = make('whole', **copy.deepcopy(ITERATIONS))
    tape = Tape()
    train(runner, tape)
    record = read(runner)
    assert (record['unit'], record['epochs'], record['iterations'],
            record['outcome']) == ('iteration', None, 7, 'finished')
    assert record['curves']['iteration'] == [3, 6, 7]
    assert record['until'] == [3, 6, 7]
    # on, on, off | off, on, on | off
    assert record['kd_weight'] == [2 / 3, 2 / 3, 0]
    assert record['kd_on'] == [2 / 3, 2 / 3, 0]
    assert [ratio > 0 for ratio in record['kd_ratio']['vit']] == [1, 1, 0]
    assert best_top1(record['curves'])['vit'][1] in (3, 6, 7)
    losses = tape.losses[0]['vit']
    np.testing.assert_allclose(
        record['train_loss']['vit'],
        [np.mean(losses[:3]),
         np.mean(losses[3:6]), losses[6]], 1e-6)

    # Broken off in the midst of a part.
    runner = make('broken', **copy.deepcopy(ITERATIONS))
    with pytest.raises(KeyboardInterrupt):
        train(runner, Stop('after_train_iter', 0, 4))
    broken = read(runner)
    assert broken['until'] == [3, 5]
    # off, on
    assert broken['kd_weight'] == [2 / 3, 1 / 2] == broken['kd_on']
    np.testing.assert_allclose(broken['train_loss']['vit'],
                               [np.mean(losses[:3]),
                                np.mean(losses[3:5])], 1e-6)
    runner = make('broken', resume=True, **copy.deepcopy(ITERATIONS))
    train(runner)
    again = read(runner)
    # The data of such a run are others once it goes on.
    for key in ('until', 'kd_weight', 'kd_on', 'iterations', 'outcome'):
        assert again[key] == record[key]
    assert again['curves'].keys() == record['curves'].keys()
    for name in ('resnet', 'vit'):
        for key in ('train_loss', 'kd_ratio'):
            assert again[key][name][0] == record[key][name][0]
            assert len(again[key][name]) == 3


def test_epochs_do_not_go_on_as_iterations(make):
    train(make('run', 1))
    runner = make('run', resume=True, **copy.deepcopy(ITERATIONS))
    with pytest.raises(ConfigError, match='counts in epochs, so it cannot'):
        runner.train()


def test_schedulers_that_come_with_a_resume(make):
    train(make('run', 1, param_scheduler=None))
    scheduler = [dict(type='StepLR', step_size=1, gamma=.1)]
    runner = make('run', 2, resume=True, param_scheduler=scheduler)
    with pytest.raises(ConfigError, match='its run has 0 schedulers'):
        runner.train()


class Fault(Hook):

    def after_val_epoch(self, runner, metrics):
        raise RuntimeError('out of\nmemory')


def test_run_that_fails(make):
    runner = make(epochs=2)
    with pytest.raises(RuntimeError):
        train(runner, Fault())
    record = read(runner)
    assert record['outcome'] == 'failed: out of memory'
    assert record['until'] == [1]
    assert len(record['kd_weight']) == record['epochs'] == 1


def loss(temperature):
    return dict(
        type='mcod_plugin.DiscontinuousKDLoss', temperature=temperature)


def test_resumed_with_another_config(make):
    """What takes effect is told, recorded, and what the config then says."""
    changes = {
        'optim_wrapper.optimizer.lr': .02,
        'model.distill': loss(2.),
        'train_dataloader.batch_size': 32,
    }
    first = make('run', 1, **{'model.distill': loss(3.)})
    train(first)
    # Before a run of the same second writes into the same file.
    for log in Path(first.work_dir).glob('*/*.log'):
        assert 'takes effect' not in log.read_text()
    lr = first.cfg.optim_wrapper.optimizer.lr
    assert lr != .02
    runner = make('run', 2, resume=True, **changes)
    train(runner)
    record = read(runner)
    assert record['config'] == {
        key: value
        for key, value in json_config(first.cfg).items() if key != 'resume'
    }
    change, = record['changes']
    assert change['epoch'] == 1
    found = {
        setting['setting']: (setting.get('now'), setting['takes_effect'])
        for setting in change['settings']
    }
    assert found == {
        'train_cfg.max_epochs': (2, True),
        'optim_wrapper.optimizer.lr': (.02, False),
        'model.distill.temperature': (2., True),
        'train_dataloader.batch_size': (32, True),
    }
    assert {
        group['initial_lr']
        for group in runner.optim_wrapper.param_groups
    } == {lr}
    assert runner.model.distill.temperature == 2
    cfg = Config.fromfile(max(Path(runner.work_dir).glob('*.py')))
    assert cfg.optim_wrapper.optimizer.lr == lr
    assert cfg.model.distill.temperature == 2
    logs = sorted(Path(runner.work_dir).glob('*/*.log'))
    rows = [
        line for line in logs[-1].read_text().split('\n')
        if 'optimizer.lr' in line
    ]
    assert any(row.split()[-2] == 'no' for row in rows)
    # Resumed once more as it is, nothing is new.
    runner = make('run', 3, resume=True, **changes)
    train(runner)
    first, second = read(runner)['changes']
    assert first == change
    assert [row['setting'] for row in second['settings']] == [
        'train_cfg.max_epochs', 'optim_wrapper.optimizer.lr']


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
    assert record['last'] == {}
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


def test_record_that_cannot_be_written(make):
    hooks = recorded(out='not/there/record.json')
    with pytest.raises(ConfigError) as info:
        make(custom_hooks=hooks).train()
    words = 'out of RunRecordHook not/there/record.json: the folder '
    assert str(info.value).startswith(words)
    assert '\n' not in str(info.value)


CLASSIFIER = dict(
    _delete_=True,
    type='ImageClassifier',
    data_preprocessor=dict(
        type='mcod_plugin.BatchDataPreprocessor', num_classes=10),
    backbone=dict(type='mcod_plugin.CifarResNet', depth=8),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=64))


def test_classifier_alone(make):
    runner = make(
        epochs=1,
        model=CLASSIFIER,
        custom_hooks=recorded()[1:],
        val_evaluator=dict(_delete_=True, type='Accuracy'))
    train(runner)
    record = read(runner)
    assert record['branches'] == [] and record['kd_weight'] == [0]
    assert 0 <= record['last']['accuracy/top1'] <= 100


def test_run_that_was_begun_without_it(make):
    runner = make('run', 2)
    train(runner)
    path = Path(runner.work_dir) / 'epoch_2.pth'
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint['run_record']
    torch.save(checkpoint, path)
    runner = make('run', 3, resume=True)
    train(runner)
    record = read(runner)
    assert record['until'] == [1, 2, 3] and record['changes'] == []
    for key in ('kd_weight', 'kd_on'):
        assert list(map(math.isnan, record[key])) == [True, True, False]
    for losses in record['train_loss'].values():
        assert list(map(math.isnan, losses)) == [True, True, False]
    assert record['curves']['epoch'] == [3]


def test_stopped_as_it_notes_its_end(tiny_runner, monkeypatch):
    """As a launcher does it that has seen another process end."""

    class Crash(Hook):

        def after_train_iter(self, runner, **kwargs):
            raise LookupError('no such shelf')

    runner = tiny_runner(epochs=1)
    runner.register_hook(Crash())
    write = run_record_hook.RunRecordHook._write
    stops = [SystemExit(143)]

    def stopped(hook, *args):
        if hook._outcome.startswith('failed') and stops:
            raise stops.pop()
        write(hook, *args)

    monkeypatch.setattr(run_record_hook.RunRecordHook, '_write', stopped)
    with pytest.raises(SystemExit):
        runner.train()
    record = json.loads((Path(runner.work_dir) / 'record.json').read_text())
    assert not stops and record['outcome'] == 'failed: no such shelf'
