import os
from pathlib import Path

import pytest
from mmengine.config import Config

from mcod_plugin.compose.compose import (_branch_names, _check_place,
                                         _choose_recipe, compose)
from mcod_plugin.errors import ConfigError
from mcod_plugin.registry import RUNNERS

PAIR = ('first.py', 'second.py')
# Below the second config, and what the line must tell.
MISTAKES = dict(
    classes=("model['head'] = dict(type='LinearClsHead', num_classes=7, "
             'in_channels=32)', ['num_classes differ', 'first 10, second 7']),
    names_of_classes=("train_dataloader = dict(dataset=dict(type='CIFAR10'))",
                      [
                          'classes', 'Digits (first: 0, 1, 2...)',
                          'CIFAR10 (second: airplane'
                      ]),
    no_classifier=("model['type'] = 'SimSiam'", ['second.py', 'SimSiam']),
    no_head=("model['head'] = None",
             ['second.py', 'model.branches.second.head is missing']),
    many_labels=("model['head']['type'] = 'MultiLabelLinearClsHead'",
                 ['second (MultiLabelLinearClsHead) for sev', 'one label']),
    channels=("model['head']['in_channels'] = 31",
              ['second.py', 'in_channels is 31', '32 channels']),
    unknown_type=("model['backbone']['type'] = 'ResNetCIFAR'",
                  ['second.py', 'ResNetCIFAR', 'did you mean', 'CIFAR']),
    no_model=('model = None', ['second.py', 'lacks the setting model']),
    cohort=("model['branches'] = dict(a=dict())",
            ['second.py', 'of a cohort already']),
    scale=('data_preprocessor = dict(mean=[.5] * 3, std=[.5] * 3)',
           ['model.branches.second.std', 'scale']))
# Below the first config, whose recipe it is.
NO_RECIPES = dict(
    data=('train_dataloader = None', ['lacks train_dataloader']),
    optimizer=('optim_wrapper = None', ['lacks optim_wrapper']),
    loop=("train_cfg = dict(type='MyLoop', max_iters=9)",
          ['must count epochs or iterations']),
    layers=("optim_wrapper['constructor'] = "
            "'LearningRateDecayOptimWrapperConstructor'",
            ['depth of one backbone']))


@pytest.mark.parametrize('configs, expected', [
    ([
        'mmpretrain::resnet/resnet18_8xb16_cifar10.py',
        'mmpretrain::vision_transformer/vit-base-p16_64xb64_in1k-384px.py'
    ], ['resnet18', 'vit_base_p16']),
    (['a/my_net.py', '../b/my.net2.py'], ['my_net', 'my_net2']),
    (['a.py', 'b/a.py', 'a_8xb32_x.py', 'a_b.py'
      ], ['a', 'a__2', 'a__3', 'a_b']),
])
def test_names(configs, expected):
    assert _branch_names(configs) == expected


@pytest.mark.parametrize('count, names, words', [
    (1, None, ['at least two', 'c0.py']),
    (2, ['a'], ['--names', '2 in all', '1: a']),
    (2, ['a', 'a'], ['--names', 'a twice']),
    (2, ['a', 'b-c'], ["'b-c'", 'letters']),
    (2, ['a', '8x'], ["'8x'", 'digit']),
    (2, ['a', 'class'], ["'class'"]),
])
def test_names_that_cannot_be_used(count, names, words):
    configs = [f'c{number}.py' for number in range(count)]
    with pytest.raises(ConfigError) as error:
        _branch_names(configs, names)
    for word in words:
        assert word in str(error.value)


def test_name_of_a_file_that_cannot_be_used():
    with pytest.raises(ConfigError, match='--names'):
        _branch_names(['a.py', '3net.py'])


def test_recipe():
    names = ['a', 'resnet']
    assert [
        _choose_recipe(given, names) for given in ('1', '2', 'a', 'resnet')
    ] == [0, 1, 0, 1]
    for given in ('0', '3', '-1', 'x'):
        with pytest.raises(ConfigError, match='from 1 to 2 or one of a, res'):
            _choose_recipe(given, names)
    with pytest.raises(ConfigError, match='did you mean resnet'):
        _choose_recipe('resnt', names)


@pytest.mark.parametrize('out, words', [
    ('no/out.py', ['--out no/out.py', 'does not exist']),
    ('deep', ['is a folder']),
    ('out.txt', ['out.txt', '.py']),
    ('my.out.py', ['my.out.py', 'no other dot']),
    ('first.py', ['first.py exists', '--force']),
])
def test_place(folder, out, words):
    (folder / 'deep').mkdir()
    with pytest.raises(ConfigError) as error:
        _check_place(out, force=False)
    for word in words:
        assert word in str(error.value)
    _check_place('out.py', force=False)
    _check_place('first.py', force=True)


def refused(configs, before, out='out.py', **arguments):
    """The line by which it is refused; nothing is left of the attempt."""
    with pytest.raises(ConfigError) as error:
        compose(configs, out, **arguments)
    assert sorted(os.listdir()) == before
    assert '\n' not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize('name', MISTAKES)
def test_configs_that_do_not_fit(folder, name):
    lines, words = MISTAKES[name]
    with open('second.py', 'a') as file:
        file.write(lines)
    line = refused(PAIR, sorted(os.listdir()))
    for word in words:
        assert word in line


TRANSFORMER = """\
model = dict(
    backbone=dict(
        _delete_=True,
        type='VisionTransformer',
        arch=dict(
            embed_dims=16, num_layers=1, num_heads=2,
            feedforward_channels=32),
        img_size=(16, 16),
        patch_size=8),
    neck=None,
    head=dict(
        _delete_=True,
        type='VisionTransformerClsHead',
        num_classes=10,
        in_channels=16))
"""


def test_size_that_only_the_network_tells(folder):
    """As a pair, of images that no transform brings to a size."""
    with open('first.py', 'a') as file:
        file.write("train_dataloader['dataset']['pipeline'].pop(0)\n")
    (folder / 'second.py').write_text(f"_base_ = 'first.py'\n{TRANSFORMER}")
    compose(PAIR, 'out.py')
    cfg = Config.fromfile('out.py')
    assert cfg.model.branches.second.backbone.img_size == (16, 16)


@pytest.mark.parametrize('name', NO_RECIPES)
def test_no_recipe(folder, name):
    lines, words = NO_RECIPES[name]
    (folder / 'other.py').write_text("_base_ = 'second.py'\n")
    with open('first.py', 'a') as file:
        file.write(lines)
    line = refused(PAIR, sorted(os.listdir()))
    for word in ['first.py', '--recipe-from', *words]:
        assert word in line


def test_recipe_of_pure_python_style(folder):
    (folder / 'pure.py').write_text("""\
from mmpretrain.models import ResNet_CIFAR

model = dict(type='ImageClassifier', backbone=dict(type=ResNet_CIFAR))
train_dataloader = train_cfg = optim_wrapper = dict(a=1)
""")
    line = refused(('pure.py', 'first.py'), sorted(os.listdir()))
    assert 'pure.py' in line and 'pure Python' in line


@pytest.mark.parametrize('name, words', [
    ('ensemble', ["'ensemble'", 'taken']),
    ('my_loss', ["'my_loss'", "'loss'"]),
])
def test_names_that_mean_something_else(folder, name, words):
    line = refused(PAIR, sorted(os.listdir()), names=['a', name])
    for word in words:
        assert word in line


def test_a_file_that_exists(folder):
    """It is kept unless there is a better one to take its place."""
    (folder / 'out.py').write_text('old = 1\n')
    line = refused(PAIR, sorted(os.listdir()))
    assert 'out.py exists' in line
    refused((*PAIR, 'gone.py'), sorted(os.listdir()), force=True)
    assert (folder / 'out.py').read_text() == 'old = 1\n'
    compose(PAIR, 'out.py', force=True)
    assert list(
        Config.fromfile('out.py').model.branches) == ['first', 'second']
    assert sorted(os.listdir()) == ['first.py', 'out.py', 'second.py']


# Files beside first.py and second.py, which inherits it.
PURE_BASE = """\
from mmpretrain.models import ResNet_CIFAR

model = dict(type='ImageClassifier', backbone=dict(type=ResNet_CIFAR))
"""
PURE = """\
from mmengine.config import read_base

with read_base():
    from .parts.pure_base import *
"""


@pytest.mark.parametrize('configs, out', [
    (PAIR, 'first.py'),
    (PAIR, 'second.py'),
    (('third.py', 'second.py'), '../{}/first.py'),
    (('link.py', 'third.py'), 'second.py'),
    (('second.py', 'pure.py'), 'pure.py'),
    (('second.py', 'pure.py'), 'parts/pure_base.py'),
])
def test_out_that_is_inherited(folder, configs, out):
    """The config would be its own base."""
    (folder / 'third.py').write_text("_base_ = ['second.py']\n")
    (folder / 'link.py').symlink_to('second.py')
    (folder / 'parts').mkdir()
    (folder / 'parts' / 'pure_base.py').write_text(PURE_BASE)
    (folder / 'pure.py').write_text(PURE)
    out = out.format(folder.name)
    with open(out) as file:
        text = file.read()
    line = refused(configs, sorted(os.listdir()), out, force=True)
    assert line.startswith(f'--out {out} is inherited')
    with open(out) as file:
        assert file.read() == text


def test_three_branches_with_moving_averages(folder):
    """By the second's recipe, which has a hook of the toolbox."""
    with open('second.py', 'a') as file:
        file.write("custom_hooks = [dict(type='EMAHook', momentum=0.1)]\n"
                   'optim_wrapper = dict(optimizer=dict(lr=0.05))')
    table = compose(('first.py', 'second.py', 'first.py'),
                    'out.py',
                    names=['a', 'b', 'c'],
                    recipe='b')
    assert 'as b' in table
    cfg = Config.fromfile('out.py')
    assert list(cfg.model.branches) == ['a', 'b', 'c']
    assert cfg.model.branches.a.lr_mult == cfg.model.branches.c.lr_mult == 2
    assert cfg.optim_wrapper.optimizer.lr == 0.05
    cfg.work_dir = str(folder / 'run')
    cfg.train_cfg.max_epochs = 1
    cfg.default_hooks.checkpoint.save_last = False
    runner = RUNNERS.build(cfg)
    runner.train()
    metrics = runner.message_hub.log_scalars
    assert {'val/a/top1', 'val/b/top1', 'val/ensemble/top3'} <= set(metrics)


ITERATIONS = """
train_cfg = dict(by_epoch=False, max_iters=6, val_interval=3)
param_scheduler = dict(
    type='CosineAnnealingLR', T_max=6, by_epoch=False)
log_processor = dict(by_epoch=False)
"""


def test_recipe_that_counts_iterations(folder):
    """Of 32 images in batches of 16 a pass is two iterations."""
    with open('first.py', 'a') as file:
        file.write(ITERATIONS)
    with open('second.py', 'a') as file:
        file.write("train_cfg = dict(_delete_=True, by_epoch=True, "
                   'max_epochs=3)')
    table = compose(('first.py', 'second.py'), 'out.py')
    assert '│ iterations' in table and 'as first' in table
    cfg = Config.fromfile('out.py')
    cfg.work_dir = str(folder / 'run')
    runner = RUNNERS.build(cfg)
    weights = []
    step = runner.model.train_step

    def train_step(data, optim_wrapper):
        weights.append(runner.model.kd_weight)
        return step(data, optim_wrapper)

    runner.model.train_step = train_step
    runner.train()
    # on, off, on: the gap ends with the run
    # Three passes: on at weight 0, a gap, on at its full weight.
    assert weights == [0, 0, 0, 0, 1, 1]
    assert sorted(path.name for path in (folder / 'run').glob('iter_*')) == [
        'iter_3.pth', 'iter_6.pth'
    ]
    metrics = runner.message_hub.log_scalars
    assert len(metrics['val/ensemble/top1'].data[0]) == 2


def test_another_optimizer_and_limits(folder):
    with open('first.py', 'a') as file:
        file.write("optim_wrapper['clip_grad'] = dict(max_norm=2.)\n")
    with open('second.py', 'a') as file:
        file.write("optim_wrapper = dict(optimizer=dict(_delete_=True, "
                   "type='AdamW', lr=1e-3, betas=(.9, .99)), clip_grad=None)")
    compose(('first.py', 'second.py'), 'out.py')
    text = Path('out.py').read_text()
    assert '# Not the SGD of first.' in text
    cfg = Config.fromfile('out.py')
    assert cfg.model.branches.second.optimizer == dict(
        type='AdamW', lr=1e-3, betas=(.9, .99))
    assert cfg.model.branches.second.clip_grad is None
    assert cfg.model.branches.first.clip_grad == dict(max_norm=2.)
    cfg.work_dir = str(folder / 'run')
    runner = RUNNERS.build(cfg)
    optimizer = runner.build_optim_wrapper(cfg.optim_wrapper).optimizer
    assert {
        name: type(own).__name__
        for name, own in optimizer.optimizers.items()
    } == {
        '': 'SGD',
        'second': 'AdamW'
    }
    assert optimizer.clips == {
        'first.grad_norm': (['first'], dict(max_norm=2.))
    }
