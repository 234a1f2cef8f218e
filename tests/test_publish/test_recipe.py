import pytest
from mmengine.config import Config

from mcod_plugin.errors import ConfigError
from mcod_plugin.publish.recipe import check_solo, recipe_differences
from mcod_plugin.publish.trained_run import read_run


def config(**changes):
    cfg = Config(
        dict(
            model=dict(
                branches=dict(a=dict(type='A')), distill=dict(temperature=3)),
            optim_wrapper=dict(optimizer=dict(lr=0.1)),
            train_dataloader=dict(batch_size=8, num_workers=2),
            custom_hooks=[
                dict(type='mcod_plugin.DiscontinuousKDHook', gap=(4, 0)),
                dict(type='EMAHook', momentum=0.5)
            ],
            randomness=dict(seed=0),
            work_dir='here'))
    cfg.merge_from_dict(changes)
    return cfg


@pytest.mark.parametrize('changes', [
    {
        'work_dir': 'there'
    },
    {
        'randomness.seed': 1
    },
    {
        'method': 'solo'
    },
    {
        'model.distill.temperature': 1
    },
    {
        'custom_hooks.0.gap': (0, 0)
    },
    {
        'train_dataloader.num_workers': 0
    },
    # as one of two processes, see test_solo_by_more_processes
    {
        'train_dataloader.batch_size': 4
    },
    {
        'parallel': dict(branch=2),
        'compile': True,
        'cuda_graph': 'auto'
    },
    {
        'model.recompute': True,
        'model.branches.a.recompute': False
    },
    {
        'optim_wrapper.optimizer.fused': True
    },
    {
        'load_from': 'epoch_1.pth',
        'resume': True
    },
])
def test_the_same_recipe(changes):
    assert recipe_differences(config(), config(**changes)) == {}


@pytest.mark.parametrize('key, value, given', [
    ('optim_wrapper.optimizer.lr', 0.2, 0.1),
    ('model.branches.a.recompute_norm', 9, None),
    ('model.branches.a.type', 'B', 'A'),
    ('randomness.deterministic', True, None),
    ('load_from', 'a.pth', None),
])
def test_another_recipe(key, value, given):
    assert recipe_differences(config(), config(**{key: value})) == {
        key: (given, value)
    }


def test_other_hooks_count():
    other = config(**{'custom_hooks.1.momentum': 0.9})
    assert recipe_differences(config(), other) == {
        'custom_hooks.0.momentum': (0.5, 0.9)
    }


def test_solo(runs):
    cohort = read_run('WORK_DIR', str(runs.cohort))
    solo = read_run('--solo', str(runs.solo))
    check_solo(cohort, solo)
    with pytest.raises(ConfigError, match='were distilled'):
        check_solo(solo, cohort)
    with pytest.raises(ConfigError) as error:
        check_solo(cohort, read_run('--solo', str(runs.shorter)))
    for part in ('--solo', 'optim_wrapper.optimizer.lr is 0.001 in WORK_DIR',
                 '0.5 there', '1 more'):
        assert part in str(error.value)


def test_solo_by_more_processes(runs):
    cohort = read_run('WORK_DIR', str(runs.cohort))
    solo = read_run('--solo', str(runs.solo))
    solo.record['batch_size'] = 2 * cohort.record['batch_size']
    with pytest.raises(ConfigError, match='of 64 images, .* WORK_DIR of 32'):
        check_solo(cohort, solo)
    # Two that share a batch see the same images.
    solo.record['batch_size'] = cohort.record['batch_size']
    solo.cfg.train_dataloader.batch_size = 16
    check_solo(cohort, solo)
    # The config alone tells of one process.
    del solo.record['batch_size']
    with pytest.raises(ConfigError, match='of 16 images, .* WORK_DIR of 32'):
        check_solo(cohort, solo)


def test_solo_that_was_stopped(runs):
    cohort = read_run('WORK_DIR', str(runs.cohort))
    earlier = read_run('--solo', str(runs.solo),
                       str(runs.solo / 'epoch_2.pth'))
    with pytest.raises(ConfigError, match='epoch 2, that of .* epoch 3'):
        check_solo(cohort, earlier)
