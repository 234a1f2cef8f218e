import ast
import re

import pytest
from mmengine.config import Config
from yapf.yapflib.yapf_api import FormatCode

from mcod_plugin.compose.cohort_text import cohort_text
from mcod_plugin.registry import RUNNERS

OTHER = """\
data_preprocessor = dict(mean=[1., 2., 3.], std=[40., 50., 60.])
optim_wrapper = dict(optimizer=dict(lr=0.02, weight_decay=2e-3))
auto_scale_lr = dict(base_batch_size=32)
param_scheduler = dict(milestones=[1])
val_dataloader = dict(dataset=dict(size=24))
train_dataloader = dict(dataset=dict(size=24, pipeline=[
    dict(type='RandomCrop', crop_size=24), dict(type='PackInputs')]))
test_dataloader = val_dataloader
"""


@pytest.fixture
def write(folder):
    """Writes the config of a cohort, and reads it."""

    def make(sources, recipe=0, out='cohort.py'):
        text = cohort_text(sources, sources[recipe], str(folder / out))
        (folder / out).parent.mkdir(exist_ok=True)
        (folder / out).write_text(text)
        return text, Config.fromfile(folder / out)

    return make


def test_inherits(sources, write, folder):
    _, cfg = write(sources())
    first = Config.fromfile('first.py')
    for key in ('optim_wrapper', 'param_scheduler', 'train_cfg',
                'train_dataloader', 'data_preprocessor', 'auto_scale_lr'):
        assert cfg[key] == first[key]
    assert cfg.model.branches.first == first.model
    # A change of a config that it was composed of reaches it.
    with open('second.py', 'a') as file:
        file.write('model.update(backbone=dict(depth=34))\n')
    with open('first.py', 'a') as file:
        file.write('train_cfg.update(max_epochs=7)\n')
    cfg = Config.fromfile('cohort.py')
    assert cfg.model.branches.second.backbone.depth == 34
    assert cfg.train_cfg.max_epochs == 7


def test_runtime(sources, write):
    _, cfg = write(sources())
    assert cfg.runner_type == 'mcod_plugin.CohortRunner'
    assert cfg.default_hooks.logger.interval == 1
    assert cfg.default_hooks.checkpoint == dict(
        type='mcod_plugin.BranchCheckpointHook', interval=1, max_keep_ckpts=2)
    assert {'runtime_info', 'epoch_seed', 'label_check',
            'report'} <= set(cfg.default_hooks)
    # The settings are those that the hook has by default.
    assert cfg.custom_hooks == [
        dict(
            type='mcod_plugin.DiscontinuousKDHook',
            on=1,
            gap=(1, 0),
            weight=(0.0, 1.0),
            curve='linear',
            ramp=0.5,
            begin=0,
            end=None,
            by_epoch=True)
    ]
    expected = dict(type='mcod_plugin.BranchMetrics', topk=(1, 3))
    assert cfg.val_evaluator == cfg.test_evaluator == expected
    assert cfg.randomness.seed == 0


def test_every_branch_by_its_own_settings(sources, write, folder):
    text, cfg = write(sources(OTHER))
    cfg.work_dir = str(folder / 'run')
    runner = RUNNERS.build(cfg)
    own = runner.model.branch_settings
    assert own['first'].mean == (78., ) * 3
    assert own['second'].mean == (1., 2., 3.)
    assert own['second'].std == (40., 50., 60.)
    assert own['first'].input_size == (16, 16)
    assert own['second'].input_size == (24, 24)
    wrapper = runner.build_optim_wrapper(cfg.optim_wrapper)
    groups = {
        id(value): group
        for group in wrapper.param_groups
        for value in group['params']
    }
    # 0.02 for 32 images is 0.04 for 64.
    for name, lr, decay in (('first', 0.1, 1e-3), ('second', 0.04, 2e-3)):
        for value in runner.model.branches[name].parameters():
            assert groups[id(value)]['lr'] == pytest.approx(lr)
            assert groups[id(value)]['weight_decay'] == pytest.approx(decay)
    # Why, stands beside it.
    assert '0.02 with batches of' in text and 'decay is 0.002' in text
    assert 'milestones=[1]' in ast.get_docstring(ast.parse(text))


@pytest.mark.parametrize('recipe', [0, 1])
def test_is_read_by_people(sources, write, recipe):
    text, _ = write(sources(OTHER), recipe)
    assert max(map(len, text.splitlines())) <= 79
    assert text.endswith('\n') and '\n\n\n' not in text
    assert len(text.splitlines()) < 110
    style = dict(
        based_on_style='pep8',
        blank_line_before_nested_class_or_def=True,
        split_before_expression_after_opening_paren=True)
    assert FormatCode(text, style_config=style)[0] == text
    docstring = ast.get_docstring(ast.parse(text))
    assert docstring.startswith('first and second together')
    assert 'python tools/train.py cohort.py' in docstring


def test_from_another_folder(sources, write):
    text, cfg = write(sources(), out='deep/cohort.py')
    assert "_base_ = '../first.py'" in text
    assert "'{{ fileDirname }}/../second.py'" in text
    assert cfg.model.branches.second.backbone.depth == 18


def test_what_the_recipe_has_within_its_model(sources, write, folder):
    text, cfg = write(
        sources(first="model['data_preprocessor'] = data_preprocessor\n"
                "data_preprocessor = None\n"
                "model['train_cfg'] = dict(augments=dict(type='Mixup', "
                'alpha=0.3))'))
    assert cfg.model.data_preprocessor.mean == [78.] * 3
    assert '# Mixup(alpha=0.3), the same for all branches.' in text
    assert 'train_cfg' not in cfg.model.branches.first
    cfg.work_dir = str(folder / 'run')
    preprocessor = RUNNERS.build(cfg).model.data_preprocessor
    (augment, ) = preprocessor.batch_augments.augments
    assert type(augment).__name__ == 'Mixup' and augment.alpha == 0.3


def test_hooks_imports_and_scope(sources, write):
    first = ("custom_hooks = [dict(type='EMAHook', momentum=1e-3)]\n"
             "randomness = dict(seed=5)\nload_from = 'a.pth'\n"
             "val_evaluator = [dict(type='Accuracy', topk=1), "
             "dict(type='SingleLabelMetric')]\n"
             'test_evaluator = None\ndefault_hooks = dict()\n'
             'default_scope = None')
    _, cfg = write(
        sources("custom_imports = dict(imports=['json', 'mcod_plugin'])",
                first))
    assert [hook.type for hook in cfg.custom_hooks
            ] == ['mcod_plugin.DiscontinuousKDHook', 'EMAHook']
    assert cfg.custom_imports.imports == ['mcod_plugin', 'json']
    assert cfg.default_scope == 'mmpretrain'
    assert cfg.randomness.seed == 5
    # The weights are those of the branch, not of the cohort.
    assert cfg.load_from is None
    assert cfg.model.branches.first.init_cfg == dict(
        type='Pretrained', checkpoint='a.pth')
    assert cfg.val_evaluator == dict(
        type='mcod_plugin.BranchMetrics',
        topk=(1, ),
        metric=dict(type='SingleLabelMetric'))
    assert cfg.test_evaluator is None
    assert '_delete_' not in str(cfg._cfg_dict)


def test_metrics_of_a_project(sources, write, folder):
    """They stay, by branch; those of the test may be others."""
    text, cfg = write(
        sources(first="val_evaluator = [dict(type='SingleLabelMetric', "
                "items=['precision'], average='micro'), "
                "dict(type='Accuracy', thrs=[.1, .2], topk=[1])]\n"
                "test_evaluator = dict(type='Accuracy', topk=[1, 2])"))
    assert cfg.val_evaluator == dict(
        type='mcod_plugin.BranchMetrics',
        metric=[
            dict(
                type='SingleLabelMetric', items=['precision'],
                average='micro'),
            dict(type='Accuracy', thrs=[.1, .2], topk=[1])
        ])
    assert cfg.test_evaluator == dict(
        type='mcod_plugin.BranchMetrics', topk=(1, 2))
    cfg.work_dir = str(folder / 'run')
    found = RUNNERS.build(cfg).val()
    for name in ('ensemble', 'first', 'second'):
        assert {
            f'{name}/{key}'
            for key in ('top1', 'top5', 'precision_micro', 'top1_thr-0.10')
        } <= set(found)


def test_hint_about_memory(sources, write, folder):
    """It works as soon as it is no comment any more."""
    text, cfg = write(sources())
    hint = text[text.index('# If all images fit into memory'):]
    lines = re.sub(r'(?m)^# ?', '', hint.split(':\n', 1)[1])
    (folder / 'fast.py').write_text(f"_base_ = 'cohort.py'\n{lines}")
    fast = Config.fromfile('fast.py')
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        dataset = fast[name].dataset
        assert dataset.type == 'mcod_plugin.InMemoryDataset'
        assert dataset.source == 'mcod_plugin.Digits'
        assert dataset.pipeline == cfg[name].dataset.pipeline
    fast.work_dir = str(folder / 'run')
    fast.train_cfg.max_epochs = 1
    RUNNERS.build(fast).train()
    # Where it cannot be done, it is not told.
    text, _ = write(
        sources(first="train_dataloader['dataset']['pipeline']"
                ".insert(0, dict(type='RandomErasing'))"))
    assert 'InMemoryDataset' not in text


@pytest.mark.parametrize('value', [r'\x', 'a"""b', '"'])
def test_settings_that_are_no_plain_text(sources, write, value):
    hook = dict(type='Any', value=value)
    text, _ = write(sources(f'custom_hooks = [{hook!r}]'))
    assert f'Any(value={value})' in ast.get_docstring(ast.parse(text))


def test_a_loader_without_a_dataset(sources, write):
    text, _ = write(sources(first='val_dataloader = dict(batch_size=1)'))
    assert 'InMemoryDataset' not in text
