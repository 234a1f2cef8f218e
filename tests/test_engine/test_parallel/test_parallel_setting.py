import pytest
from mmengine.hooks import EMAHook, ParamSchedulerHook, SyncBuffersHook

from mcod_plugin.engine.parallel import (check_cohort, check_hooks,
                                         check_settings, parallel_branches)
from mcod_plugin.errors import ConfigError
from mcod_plugin.registry import MODELS


@pytest.mark.parametrize('setting, number', [
    ({}, 1),
    (dict(parallel=None), 1),
    (dict(parallel=dict()), 1),
    (dict(parallel=dict(branch=3)), 3),
])
def test_setting(setting, number):
    assert parallel_branches(setting) == number


@pytest.mark.parametrize('value, words', [
    (2, 'parallel must be a dict such as dict(branch=2); got 2'),
    (dict(branches=2), 'parallel.branches is unknown; did you mean branch?'),
    (dict(tensor=2), 'parallel.tensor is unknown; it takes branch'),
    (dict(branch=0), 'parallel.branch must be an integer of at least 1'),
    (dict(branch='2'), 'parallel.branch must be an integer of at least 1'),
])
def test_other_settings(value, words):
    with pytest.raises(ConfigError) as caught:
        parallel_branches(dict(parallel=value))
    assert words in str(caught.value) and '\n' not in str(caught.value)


@pytest.mark.parametrize('cfg, words', [
    (dict(on_divergence='drop'), "on_divergence='drop'"),
    (dict(compile=True), 'compile=True'),
    (dict(sync_bn='torch'), "sync_bn='torch'"),
    (dict(model_wrapper_cfg=dict(type='MMDistributedDataParallel')),
     'model_wrapper_cfg='),
    (dict(efficient_conv_bn_eval=['branches.a']), 'efficient_conv_bn_eval='),
    (dict(randomness=dict(seed=0, diff_rank_seed=True)),
     'randomness.diff_rank_seed'),
    (dict(optim_wrapper=dict(type='AmpOptimWrapper')),
     'optim_wrapper.type AmpOptimWrapper'),
    (dict(on_divergence='stop', compile=False,
          sync_bn=None), 'needs a multiple of 2 processes; there are 1'),
])
def test_what_does_not_go_with_it(cfg, words):
    with pytest.raises(ConfigError) as caught:
        check_settings(cfg, 2)
    text = str(caught.value)
    assert text.startswith('parallel.branch=2 ') and words in text
    assert '\n' not in text


BRANCH = dict(
    backbone=dict(type='mcod_plugin.CifarResNet', depth=8, width=2),
    head=dict(type='LinearClsHead', num_classes=3))
NORM = dict(clip_grad=dict(max_norm=1.))


def make_cohort(a=None, b=None, **changes):
    return MODELS.build(
        dict(
            type='mcod_plugin.MultiBackboneClassifier',
            branches=dict(
                a=dict(BRANCH, **a or {}), b=dict(BRANCH, **b or {})),
            input_size=16,
            **changes))


@pytest.mark.parametrize('changes, wrapper, words', [
    (dict(b=dict(frozen=True)), {}, 'more than there are branches to train: '
     'a; each process needs one'),
    (dict(distill=dict(type='mcod_plugin.FeatureKDLoss')), {},
     'model.distill.type FeatureKDLoss, which needs features'),
    (dict(teacher=dict(type='mcod_plugin.EnsembleTeacher', ema=.9)), {},
     'as model.teacher.ema does'),
    ({}, NORM, 'optim_wrapper.clip_grad by the norm over a, b'),
    (dict(a=NORM), NORM, 'optim_wrapper.clip_grad by the norm over b'),
])
def test_cohorts_that_cannot_be_shared(changes, wrapper, words):
    with pytest.raises(ConfigError) as caught:
        check_cohort(dict(optim_wrapper=wrapper), make_cohort(**changes), 2)
    text = str(caught.value)
    assert text.startswith('parallel.branch=2 ') and words in text
    assert '\n' not in text


@pytest.mark.parametrize('changes, wrapper', [
    ({}, {}),
    ({}, dict(clip_grad=dict(type='value', clip_value=1.))),
    (dict(a=NORM, b=NORM), NORM),
    (dict(distill=None), {}),
])
def test_cohorts_that_can(changes, wrapper):
    check_cohort(dict(optim_wrapper=wrapper), make_cohort(**changes), 2)


def test_no_cohort():
    with pytest.raises(ConfigError, match='needs a cohort such as'):
        check_cohort({},
                     MODELS.build(
                         dict(
                             BRANCH,
                             type='ImageClassifier',
                             _scope_='mmpretrain',
                             neck=dict(type='GlobalAveragePooling'),
                             head=dict(BRANCH['head'], in_channels=8))), 2)


def test_hooks():
    check_hooks([ParamSchedulerHook()], 2)
    for hook in (EMAHook(), SyncBuffersHook()):
        with pytest.raises(ConfigError, match=type(hook).__name__):
            check_hooks([ParamSchedulerHook(), hook], 2)
