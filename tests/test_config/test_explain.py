import pytest
from mmengine.config import Config
from mmengine.registry import OPTIMIZERS, build_from_cfg

from mcod_plugin.config.explain import explain, unknown_type
from mcod_plugin.errors import ConfigError, one_line
from mcod_plugin.registry import DATASETS, HOOKS, MODELS


def explained(cfg, build):
    cfg = Config(cfg)
    with pytest.raises(Exception) as info:
        build(cfg)
    error = explain(cfg, info.value)
    assert type(error) is ConfigError
    return str(error)


@pytest.mark.parametrize('error, text', [
    (ValueError('a\n  b'), 'a b'),
    (KeyError("it's a\nb"), "it's a b"),
    (KeyError(), ''),
    (ValueError(), ''),
])
def test_one_line(error, text):
    assert one_line(error) == text


def test_unknown_type():
    cfg = dict(custom_hooks=[
        dict(type='EMAHook'),
        dict(type='DiscontinuousKDHook', on=1)
    ])
    text = explained(cfg, lambda cfg: HOOKS.build(cfg.custom_hooks[1]))
    assert text == ("custom_hooks.1.type 'DiscontinuousKDHook' is no "
                    'registered hook; did you mean '
                    'mcod_plugin.DiscontinuousKDHook?')


def test_unknown_type_like_no_other():
    error = unknown_type('x.type', 'Qqqqq', HOOKS)
    assert str(error) == ("x.type 'Qqqqq' is no registered hook; no name is "
                          'like it')


def test_names_of_all_packages_are_known():
    for registry, name, expected in (
        (MODELS, 'CifarResnet', 'mcod_plugin.CifarResNet'),
        (MODELS, 'ImageClasifier', 'ImageClassifier'),
        (HOOKS, 'CheckpointHok', 'CheckpointHook'),
        (OPTIMIZERS, 'Lambda', 'Lamb'),
    ):
        assert expected in str(unknown_type('type', name, registry))


def test_unknown_argument():
    cfg = dict(model=dict(distill=dict(
        type='mcod_plugin.DiscontinuousKDLoss', temprature=2)))
    text = explained(cfg, lambda cfg: MODELS.build(cfg.model.distill))
    assert text == ('model.distill.temprature is no setting of '
                    'DiscontinuousKDLoss; did you mean temperature?')


def test_unknown_argument_like_no_other():
    cfg = dict(model=dict(distill=dict(
        type='mcod_plugin.DiscontinuousKDLoss', qqq=2)))
    text = explained(cfg, lambda cfg: MODELS.build(cfg.model.distill))
    assert text == ('model.distill.qqq is no setting of DiscontinuousKDLoss; '
                    'it takes temperature, where, standardize')


def test_argument_of_a_base_class():
    cfg = dict(head=dict(
        type='LinearClsHead', num_classes=3, in_channels=4, topkk=1))
    text = explained(cfg, lambda cfg: MODELS.build(cfg.head))
    assert text == ('head.topkk is no setting of LinearClsHead; did you mean '
                    'topk?')


def test_the_innermost_part_is_named():
    cfg = dict(
        model=dict(
            type='mcod_plugin.MultiBackboneClassifier',
            branches=dict(
                a=dict(
                    backbone=dict(
                        type='mcod_plugin.CifarResNet', depth=8, width=4),
                    head=dict(
                        type='LinearClsHead',
                        num_classes=3,
                        loss=dict(type='CrossEntropyLos'))))))
    text = explained(cfg, lambda cfg: MODELS.build(cfg.model))
    assert text.startswith("model.branches.a.head.loss.type 'CrossEntropyLos'")
    assert 'did you mean CrossEntropyLoss' in text


@pytest.mark.parametrize('changes, text', [
    (dict(source='mcod_plugin.Digit'),
     "loader.dataset.source 'mcod_plugin.Digit' is no registered dataset; did "
     'you mean mcod_plugin.Digits?'),
    (dict(splt='test'),
     'loader.dataset.splt is no setting of Digits; did you mean split?'),
    (dict(max_gb=1),
     'loader.dataset.max_gb is no setting of Digits; did you mean max_gib?'),
    (dict(split='trian'),
     'loader.dataset: split of Digits must be one of test, train; got '
     "'trian'"),
])
def test_data_set_held_in_memory(changes, text):
    """Its settings stand beside those of the one that it holds."""
    cfg = dict(
        loader=dict(
            dataset=dict({
                'type': 'mcod_plugin.InMemoryDataset',
                'source': 'mcod_plugin.Digits',
                'pipeline': [],
                **changes
            })))
    found = explained(cfg, lambda cfg: DATASETS.build(cfg.loader.dataset))
    assert found == text


def test_data_set_whose_type_was_forgotten():
    cfg = dict(loader=dict(dataset=dict(source='CIFAR100', split='train')))
    found = explained(cfg, lambda cfg: DATASETS.build(cfg.loader.dataset))
    assert 'loader.dataset' in found and 'type' in found
    assert len(found.splitlines()) == 1


def test_path_of_the_part_that_has_most_in_common():
    """Parts of the same type are told apart by their settings."""
    cfg = dict(
        branches=dict(
            a=dict(type='mcod_plugin.CifarResNet', depth=20),
            b=dict(type='mcod_plugin.CifarResNet', depth=9),
            c=dict(type='mcod_plugin.CifarResNet', depth=32)))
    text = explained(cfg, lambda cfg: MODELS.build(cfg.branches.b))
    assert text.startswith('branches.b: depth ')


def test_config_error_gets_the_path():
    cfg = dict(
        custom_hooks=[dict(type='mcod_plugin.DiscontinuousKDHook', on=0)])
    text = explained(cfg, lambda cfg: HOOKS.build(cfg.custom_hooks[0]))
    assert text.startswith('custom_hooks.0: ') and text.endswith('got 0')


def test_config_error_that_names_the_path_stays():
    cfg = dict(
        model=dict(
            teacher=dict(type='mcod_plugin.EnsembleTeacher', fusion='x')))
    text = explained(cfg, lambda cfg: MODELS.build(cfg.model.teacher))
    assert text.startswith('model.teacher.fusion must be')


def test_config_error_from_elsewhere_stays():
    assert str(explain(Config(), ConfigError('x is\nbad'))) == 'x is bad'


def test_other_errors_name_their_type():
    text = str(explain(Config(), OSError('disk\nfull')))
    assert text == ('disk full (OSError; set MCOD_DEBUG=1 to see where it '
                    'comes from)')
    text = str(explain(Config(), RuntimeError()))
    assert text.startswith('no reason given (RuntimeError; ')


def test_error_without_a_text_in_a_part():

    @MODELS.register_module(name='Silent', force=True)
    class Silent:

        def __init__(self, size):
            raise RuntimeError

    try:
        text = explained(
            dict(part=dict(type='mcod_plugin.Silent', size=0)),
            lambda cfg: build_from_cfg(cfg.part, MODELS))
    finally:
        MODELS.module_dict.pop('Silent')
    assert text.startswith('part: no reason given (RuntimeError; ')


@pytest.mark.parametrize('part', ['mcod_plugin.CifarVGG', 5])
def test_part_that_is_no_config(part):
    text = explained(
        dict(part=part), lambda cfg: build_from_cfg(cfg.part, MODELS))
    assert type(part).__name__ in text and '(TypeError; ' in text


def test_type_error_of_other_code_is_no_unknown_setting():
    """A mistake in a part's own code is not blamed on the config."""

    @MODELS.register_module(name='BrokenPart', force=True)
    class BrokenPart:

        def __init__(self):
            print(colour='red')

    try:
        text = explained(
            dict(part=dict(type='mcod_plugin.BrokenPart')),
            lambda cfg: build_from_cfg(cfg.part, MODELS))
    finally:
        MODELS.module_dict.pop('BrokenPart')
    assert text.startswith('part: ') and '(TypeError; ' in text
