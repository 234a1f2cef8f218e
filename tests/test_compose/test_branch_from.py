import pytest
from mmengine.config import Config

from mcod_plugin.compose import branch_from
from mcod_plugin.errors import ConfigError
from mcod_plugin.models.utils.build_branch import build_branch

MIXUP = 'mmpretrain::resnet/resnet50_8xb16-mixup_cifar10.py'


def test_of_a_package():
    model = branch_from(MIXUP)
    assert model['backbone']['depth'] == 50
    assert model['head']['num_classes'] == 10
    # The batch augmentations are not the branch's.
    assert 'train_cfg' not in model and '_scope_' not in model


def test_of_a_file(folder):
    with open('second.py', 'a') as file:
        file.write('model.update(data_preprocessor=dict(mean=[1.] * 3))\n')
    model = branch_from('second.py', lr_mult=0.5, neck=None)
    assert model == dict(
        type='ImageClassifier',
        backbone=dict(
            type='ResNet_CIFAR', depth=18, stem_channels=4, base_channels=4),
        neck=None,
        head=dict(type='LinearClsHead', num_classes=10, in_channels=32),
        lr_mult=0.5)


def test_scope_of_another_project(folder):
    with open('second.py', 'a') as file:
        file.write("default_scope = 'mcod_plugin'\n")
    assert branch_from('first.py').get('_scope_') is None
    assert branch_from('second.py')['_scope_'] == 'mcod_plugin'


def test_pure_python_style(folder):
    (folder / 'pure.py').write_text("""\
from mmpretrain.models import (GlobalAveragePooling, ImageClassifier,
                               LinearClsHead, ResNet_CIFAR)

model = dict(
    type=ImageClassifier,
    backbone=dict(
        type=ResNet_CIFAR, depth=18, stem_channels=4, base_channels=4),
    neck=dict(type=GlobalAveragePooling),
    head=dict(type=LinearClsHead, num_classes=7, in_channels=32))
""")
    model = branch_from('pure.py')
    assert model['backbone']['type'] == 'mmpretrain.models.ResNet_CIFAR'
    branch, number = build_branch('pure', model, (16, 16), 3)
    assert type(branch.backbone).__name__ == 'ResNet_CIFAR' and number == 7


def test_in_a_config(folder):
    """It is resolved when the config is read, in its own folder."""
    (folder / 'deep').mkdir()
    (folder / 'deep' / 'cohort.py').write_text("""\
_base_ = '../first.py'

from mcod_plugin.compose import branch_from  # noqa: E402

model = dict(
    _delete_=True,
    branches=dict(
        a=branch_from('{{ fileDirname }}/../second.py'),
        b=branch_from('mmpretrain::resnet/resnet18_8xb16_cifar10.py')))
""")
    (folder / 'child.py').write_text("""\
_base_ = 'deep/cohort.py'
model = dict(branches=dict(a=dict(backbone=dict(depth=34))))
""")
    cfg = Config.fromfile('child.py')
    assert cfg.model.branches.a.backbone.depth == 34
    assert cfg.model.branches.a.backbone.stem_channels == 4
    assert cfg.model.branches.b.backbone.depth == 18
    assert 'branch_from' not in cfg and 'branch_from' not in cfg.pretty_text
    assert cfg.optim_wrapper.optimizer.lr == 0.1
    cfg.merge_from_dict({'model.branches.b.backbone.depth': 50})
    assert cfg.model.branches.b.backbone.depth == 50


@pytest.mark.parametrize('config, words', [
    ('gone.py', ['gone.py', 'no such file']),
    ('nomodel.py', ['nomodel.py', 'lacks the setting model']),
    ('broken.py', ['broken.py', 'line 1']),
    ('mmpretrein::resnet/a.py', ["no package 'mmpretrein'"]),
    ('::a.py', ["no package ''"]),
    ('mmpretrain::resnet/resnet18_8xb16_cifar1.py',
     ['no such file in mmpretrain', 'did you mean resnet18_8xb16_cifar10']),
    ('mmpretrain::gone/a.py', ['gone/a.py', 'no such file in mmpretrain']),
    ('json::a/b.py', ['json::a/b.py', 'no such file in json']),
    ('math::a/b.py', ["no package 'math'"]),
    ('../a::b.py', ["no package '../a'"]),
])
def test_mistakes(folder, config, words):
    (folder / 'nomodel.py').write_text('a = 1\n')
    (folder / 'broken.py').write_text('a = (\n')
    with pytest.raises(ConfigError) as error:
        branch_from(config)
    for word in words:
        assert word in str(error.value)
    assert '\n' not in str(error.value)
