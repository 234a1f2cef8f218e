import json

import pytest
from mmengine.hooks import Hook

from mcod_plugin.errors import ConfigError
from mcod_plugin.registry import HOOKS
from mcod_plugin.schedule import DiscontinuousSchedule


class Probe(Hook):
    """Notes what the model computes in every step."""

    def __init__(self):
        self.steps = []

    def after_train_iter(self, runner, batch_idx, data_batch, outputs):
        distilled = 'resnet.loss_kd' in outputs
        self.steps.append(
            (runner.model.kd_weight, distilled, float(outputs['kd_weight'])))


def weights_of(runner):
    probe = Probe()
    runner.register_hook(probe)
    runner.train()
    for weight, distilled, logged in probe.steps:
        assert logged == pytest.approx(weight)
        assert distilled == (weight > 0)
    return [weight for weight, _, _ in probe.steps]


SETTINGS = dict(on=1, gap=(1, 0), weight=(0.5, 2.0), curve='cosine')


@pytest.mark.parametrize('by_epoch', [True, False])
def test_weight_follows_the_schedule(tiny_runner, by_epoch):
    hook = dict(
        type='mcod_plugin.DiscontinuousKDHook', by_epoch=by_epoch, **SETTINGS)
    weights = weights_of(tiny_runner(epochs=4, custom_hooks=[hook]))
    # 64 images in batches of 16 are 4 iterations an epoch.
    schedule = DiscontinuousSchedule(end=4 if by_epoch else 16, **SETTINGS)
    times = [step // 4 if by_epoch else step for step in range(16)]
    assert weights == [schedule.weight(t) for t in times]
    assert 0 in weights and 2.0 in weights


@pytest.mark.parametrize('by_epoch', [True, False])
def test_shares_are_those_of_the_run(tiny_runner, tmp_path, by_epoch):
    given = dict(gap=(0, 0), weight=(0., 1.))
    hook = dict(
        type='mcod_plugin.DiscontinuousKDHook',
        by_epoch=by_epoch,
        begin=.25,
        end=.75,
        ramp=.5,
        **given)
    weights = weights_of(tiny_runner(epochs=4, custom_hooks=[hook]))
    total = 4 if by_epoch else 16
    schedule = DiscontinuousSchedule(
        begin=total // 4, end=3 * total // 4, ramp=total // 2, **given)
    assert weights == [
        schedule.weight(step // 4 if by_epoch else step) for step in range(16)
    ]
    assert max(weights) == (.5 if by_epoch else 7 / 8)
    log = next(tmp_path.rglob('*.log')).read_text()
    assert f'steps from {total // 4} to {3 * total // 4 - 1} are on' in log


def test_solo_never_distils(tiny_runner):
    runner = tiny_runner(**{'custom_hooks.0.weight': [0, 0]})
    assert set(weights_of(runner)) == {0}


def test_resumed_run_recomputes_the_weight(tiny_runner):
    runner = tiny_runner('a', 2, **{'custom_hooks.0.end': 4})
    first = weights_of(runner)
    resumed = weights_of(
        tiny_runner('a', 4, resume=True, **{'custom_hooks.0.end': 4}))
    schedule = DiscontinuousSchedule(gap=(1, 0), weight=(0.5, 2.0), end=4)
    assert first + resumed == [
        schedule.weight(step // 4) for step in range(16)
    ]


def test_schedule_is_printed(tiny_runner, tmp_path):
    runner = tiny_runner()
    runner.train()
    log = next(tmp_path.rglob('*.log')).read_text()
    assert 'Distillation schedule over 2 epochs:' in log
    assert '1 of the 2 steps from 0 to 1 are on' in log


def test_begin_beyond_the_run(tiny_runner):
    runner = tiny_runner(**{'custom_hooks.0.begin': 2})
    with pytest.raises(ConfigError, match='begin must be less than the 2'):
        runner.train()


def test_other_model_is_refused(tiny_runner):
    branch = dict(
        type='ImageClassifier',
        backbone=dict(type='mcod_plugin.CifarResNet', depth=8, width=4),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=10, in_channels=16))
    runner = tiny_runner(model=dict(branch, _delete_=True))
    with pytest.raises(ConfigError, match='kd_weight.*got ImageClassifier'):
        runner.train()


def by_iterations(number, **setting):
    return dict(
        train_cfg=dict(
            by_epoch=False,
            max_iters=number,
            val_interval=number,
            _delete_=True),
        custom_hooks=[dict(type='mcod_plugin.DiscontinuousKDHook', **setting)])


@pytest.mark.parametrize('sampler', ['DefaultSampler', 'InfiniteSampler'])
@pytest.mark.parametrize('setting', [
    dict(gap=[1, 0], weight=[1., 1.]),
    dict(gap=[0, 0], weight=[.5, 2.]),
    dict(gap=[0, 0], weight=[1., 1.], begin=1, end=2),
])
def test_epochs_of_a_run_that_counts_iterations(tiny_runner, setting, sampler):
    """They are passes over the data, 64 images in batches of 16."""
    runner = tiny_runner(
        'a', **by_iterations(10, **setting), **{
            'train_dataloader.sampler':
            dict(type=sampler, shuffle=True, _delete_=True)
        })
    schedule = DiscontinuousSchedule(**setting).resolve(3)
    expected = [schedule.weight(step // 4) for step in range(10)]
    assert len(set(expected)) > 1
    assert weights_of(runner) == expected


def test_epochs_are_those_of_the_whole_run(tiny_runner):

    def runner(work_dir, **changes):
        return tiny_runner(work_dir,
                           **by_iterations(10, gap=[1, 0], weight=[1., 2.]),
                           **changes)

    whole = runner(
        'a', **{
            'default_hooks.checkpoint.by_epoch': False,
            'default_hooks.checkpoint.interval': 7
        })
    weights = weights_of(whole)
    resumed = runner(
        'b', resume=True, load_from=f'{whole.work_dir}/iter_7.pth')
    assert weights_of(resumed) == weights[7:]


@pytest.mark.parametrize('setting, match', [
    (dict(on=0), 'on must be'),
    (dict(gap=(-1, 0)), r'gap\[0\] must be'),
    (dict(weight=(0.1, float('nan'))), r'weight\[1\] must be'),
    (dict(curve='linaer'), 'curve must be one of cosine, exp, linear, step'),
    (dict(begin=5, end=5), 'end must be greater than begin'),
    (dict(ramp=1.5), 'ramp must be an integer of at least 1'),
])
def test_bad_settings_fail_at_build(setting, match):
    with pytest.raises(ConfigError, match=match):
        HOOKS.build(dict(type='mcod_plugin.DiscontinuousKDHook', **setting))


HOOK = dict(type='mcod_plugin.DiscontinuousKDHook', gap=(0, 0))


def test_schedules_of_branches(tiny_runner, tmp_path):
    """Weights in model, log and record are those that took effect."""
    runner = tiny_runner(
        epochs=2,
        custom_hooks=[
            dict(HOOK, branches=['resnet'], weight=(.5, .5)),
            dict(HOOK, branches='vit', weight=(2., 2.), begin=1),
            dict(type='mcod_plugin.RunRecordHook')
        ],
        **{'default_hooks.logger.interval': 1})
    seen = []

    class Note(Hook):

        def after_train_epoch(self, runner):
            seen.append(dict(runner.model.kd_weights))

    runner.register_hook(Note())
    runner.train()
    assert seen == [dict(resnet=.5, vit=0.), dict(resnet=.5, vit=2.)]
    log = next(tmp_path.rglob('*.log')).read_text()
    for name in ('resnet', 'vit'):
        assert f'schedule over 2 epochs:\nbranches: {name}\n' in log
    hub = runner.message_hub
    history = {
        key: list(hub.get_scalar(f'train/{key}').data[0])
        for key in ('kd_weight', 'resnet.kd_weight', 'vit.kd_weight')
    }
    assert history == {
        'kd_weight': [.5] * 4 + [2.] * 4,
        'resnet.kd_weight': [.5] * 8,
        'vit.kd_weight': [0.] * 4 + [2.] * 4
    }
    record = json.loads(next(tmp_path.rglob('record.json')).read_text())
    assert {
        key: record[key]
        for key in history
    } == {
        'kd_weight': [.5, 2.],
        'resnet.kd_weight': [.5, .5],
        'vit.kd_weight': [0., 2.]
    }


def test_weights_that_differ_for_a_while(tiny_runner, tmp_path):
    """Log and record go on with a branch's weight where all are equal."""
    runner = tiny_runner(
        epochs=3,
        custom_hooks=[
            dict(HOOK, branches=['resnet'], weight=(1., 1.)),
            dict(HOOK, branches=['vit'], weight=(1., 1.), begin=1, end=2),
            dict(type='mcod_plugin.RunRecordHook')
        ])
    runner.train()
    record = json.loads(next(tmp_path.rglob('record.json')).read_text())
    assert record['kd_weight'] == record['resnet.kd_weight'] == [1., 1., 1.]
    assert record['vit.kd_weight'] == [0., 1., 0.]
    history = runner.message_hub.get_scalar('train/vit.kd_weight').data[0]
    assert list(history) == [0.] * 4 + [1.] * 4 + [0.] * 4


@pytest.mark.parametrize('hooks, message', [
    ([HOOK, dict(HOOK, branches=['vit'])],
     'custom_hooks has two mcod_plugin.DiscontinuousKDHook for vit; .*'),
    ([dict(HOOK, branches=['vit', 'resnet']),
      dict(HOOK, branches='resnet')],
     'custom_hooks has two mcod_plugin.DiscontinuousKDHook for resnet; .*'),
    ([HOOK, HOOK], 'custom_hooks has two .* for resnet, vit; .*'),
    ([dict(HOOK, branches=['resnt'])],
     "DiscontinuousKDHook.branches names 'resnt', which is no branch of "
     r'resnet, vit; did you mean resnet\?'),
])
def test_branches_that_are_refused(tiny_runner, hooks, message):
    runner = tiny_runner(custom_hooks=hooks)
    with pytest.raises(ConfigError, match=f'^{message}$'):
        runner.train()
    assert runner.iter == 0


@pytest.mark.parametrize('branches', [[], ['a', 'a'], [1], 2])
def test_names_that_are_none(branches):
    with pytest.raises(ConfigError, match='branches must name at least one'):
        HOOKS.build(dict(HOOK, branches=branches))


def test_no_hook_makes_a_cohort_without_loss_distil(tiny_runner, tmp_path):
    runner = tiny_runner(
        epochs=1,
        custom_hooks=[
            dict(HOOK, weight=(1, 1)),
            dict(type='mcod_plugin.RunRecordHook')
        ],
        **{'model.distill': None})
    runner.train()
    assert runner.model.kd_weight == 1
    log = next(tmp_path.rglob('*.log')).read_text()
    assert 'whatever the schedule: model.distill is None.' in log
    record = json.loads(next(tmp_path.rglob('record.json')).read_text())
    assert record['kd_weight'] == [0.]
