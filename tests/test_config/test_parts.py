"""A part is the same, and known to every reader, however it is spelled."""
from types import SimpleNamespace

import pytest
import torch.nn as nn
from mmcv.transforms import CenterCrop
from mmengine.config import Config, ConfigDict
from mmengine.hooks import CheckpointHook, Hook
from mmengine.model import PretrainedInit
from mmengine.optim import AmpOptimWrapper
from mmengine.registry import HOOKS, Registry
from mmpretrain.datasets import PackInputs, RandomCrop

from mcod_plugin.alone.data import evaluator, loader_alone
from mcod_plugin.compare.plan import _check_evaluator
from mcod_plugin.config.input_size import pipeline_input_size
from mcod_plugin.config.methods import apply_method
from mcod_plugin.config.parts import is_part, metric_configs, type_name, walk
from mcod_plugin.config.pretrained import (checkpoints, is_pretrained,
                                           without_pretrained)
from mcod_plugin.config.read import read_config
from mcod_plugin.datasets import InMemoryDataset
from mcod_plugin.datasets.in_memory_dataset import is_in_memory
from mcod_plugin.engine import hooks
from mcod_plugin.engine.hooks import DiscontinuousKDHook, RunRecordHook
from mcod_plugin.engine.optim_wrapper import (AutocastOptimWrapper,
                                              BranchOptimWrapperConstructor,
                                              precision)
from mcod_plugin.evaluation import BranchMetrics
from mcod_plugin.models.heads import EnsembleTeacher
from mcod_plugin.models.losses import DiscontinuousKDLoss
from mcod_plugin.models.utils.branch_settings import BranchSettings
from mcod_plugin.models.utils.pretrained import take_pretrained
from mcod_plugin.publish.data_facts import data_part
from mcod_plugin.publish.recipe import recipe_differences
from mcod_plugin.publish.trained_run import TrainedRun
from mcod_plugin.publish.weights import published_config
from speed import cases
from speed.branch_runner import branch_loader
from speed.optimizer_alone import optim_wrapper_alone

PRIVATE = '/home/me/w.pth'


def spelled(cls, *names):
    """Ids and ways to name a class."""
    path = f'{cls.__module__}.{cls.__qualname__}'
    return pytest.mark.parametrize('kind', [*names, cls, path], ids=str)


PRETRAINED = spelled(PretrainedInit, 'Pretrained', 'mmengine.Pretrained')
IN_MEMORY = spelled(InMemoryDataset, 'mcod_plugin.InMemoryDataset')
SCHEDULE = spelled(DiscontinuousKDHook, 'mcod_plugin.DiscontinuousKDHook')
METRICS = spelled(BranchMetrics, 'mcod_plugin.BranchMetrics')


@PRETRAINED
def test_is_part(kind):
    for cfg in (dict(type=kind), ConfigDict(type=kind)):
        assert is_part(cfg, PretrainedInit)
        assert is_part(cfg, (InMemoryDataset, PretrainedInit))
        assert not is_part(cfg, (InMemoryDataset, DiscontinuousKDHook))
        assert is_part(dict(source=kind), PretrainedInit, 'source')
        assert not is_part(cfg, PretrainedInit, 'source')


@pytest.fixture
def project():
    """The registry of another project."""
    yield Registry('hook', parent=HOOKS, scope='project')
    HOOKS.children.pop('project')


def test_a_project_s_scope_finds_what_is_mmengine_s(project):
    assert is_part(dict(type='mmpretrain.Pretrained'), PretrainedInit)
    assert is_part(dict(type='project.CheckpointHook'), CheckpointHook)
    assert not is_part(dict(type='nowhere.CheckpointHook'), CheckpointHook)


def test_another_of_the_same_name_is_no_such_part(project):

    class DiscontinuousKDHook(Hook):
        """A user's own."""

    own = DiscontinuousKDHook
    project.register_module(module=own)
    for kind in (own, 'project.DiscontinuousKDHook', 'DiscontinuousHook',
                 'mcod_plugin.RunRecordHook', None, 3):
        assert not is_part(dict(type=kind), hooks.DiscontinuousKDHook)


def test_a_subclass_is_another_part():

    class Other(RunRecordHook):
        pass

    assert not is_part(dict(type=Other), RunRecordHook)


@pytest.mark.parametrize('cfg', [None, {}, 'Pretrained', [], nn.Identity()])
def test_what_builds_nothing(cfg):
    assert not is_part(cfg, PretrainedInit)


def test_name_without_its_prefix():
    assert type_name(dict(type='pkg.mod.Name')) == 'Name'
    assert type_name(dict(type=dict)) == 'dict'
    assert type_name({}) == type_name(dict(type=None)) == ''
    assert type_name(dict(type='A', source='pkg.B'), 'source') == 'B'


def test_walk():
    cfg = dict(a=[1, (2, dict(type=dict))], b=nn.Identity())
    found = dict(walk(Config(cfg)))
    assert found.pop('').keys() == {'a', 'b'}
    assert list(found) == [
        'a', 'a.0', 'a.1', 'a.1.0', 'a.1.1', 'a.1.1.type', 'b'
    ]
    assert found['a.1.1.type'] is dict and found['a.0'] == 1


def test_what_is_found_in_a_changed_part():
    cfg = dict(a=dict(b=1, c=dict(d=2)))
    paths = []
    for path, value in walk(cfg):
        paths.append(path)
        if path == 'a':
            value.pop('c')
    assert paths == ['', 'a', 'a.b']


@PRETRAINED
def test_pretrained_weights(kind):
    init = dict(type=kind, checkpoint=PRIVATE)
    for init_cfg in (init, [dict(type='Normal'), init]):
        cfg = dict(backbone=[dict(depth=8, init_cfg=init_cfg)])
        assert is_pretrained(cfg)
        assert without_pretrained(cfg) == dict(backbone=[dict(depth=8)])
        assert list(checkpoints(cfg)) == [PRIVATE]
    network = nn.Sequential(nn.Identity())
    network[0].init_cfg = init
    assert take_pretrained(network) == {'0': init}
    assert network[0].init_cfg == []


PURE_PYTHON = """\
from mcod_plugin.datasets import InMemoryDataset
from mcod_plugin.engine.hooks import RunRecordHook
from mcod_plugin.models import CifarResNet, MultiBackboneClassifier
from mmengine.model import PretrainedInit
model = dict(
    type=MultiBackboneClassifier, input_size=32,
    branches=dict(
        a=dict(backbone=dict(type=CifarResNet, depth=8),
               init_cfg=dict(
                   type=PretrainedInit, checkpoint='/home/me/w.pth')),
        b=dict(backbone=dict(type=CifarResNet, depth=8))))
custom_hooks = [dict(type=RunRecordHook, out='/home/me/record.json')]
"""


@pytest.fixture
def pure_python(tmp_path):
    (tmp_path / 'pure.py').write_text(PURE_PYTHON)
    return read_config(str(tmp_path / 'pure.py'))


def run_of(cfg):
    return TrainedRun('', Config(cfg), '', {}, {})


def test_no_private_path_is_published(pure_python):
    text = published_config(pure_python, None).pretty_text
    assert 'CifarResNet' in text and '/home/me' not in text
    # The card tells which branches had learnt before.
    assert TrainedRun('', pure_python, '', {}, {}).pretrained == ['a']


@IN_MEMORY
def test_data_in_memory(kind):
    pipeline = [dict(type='PackInputs')]
    dataset = dict(
        type=kind,
        source='CIFAR10',
        device='cpu',
        data_root='data',
        pipeline=pipeline)
    wrapped = dict(type='RepeatDataset', times=2, dataset=dataset)
    assert is_in_memory(wrapped) and is_in_memory(dict(dataset=dataset))
    source = dict(type='CIFAR10', data_root='data', pipeline=pipeline)
    assert loader_alone(dict(dataset=dataset))['dataset'] == source
    assert branch_loader(dict(dataset=wrapped), 0)['dataset'] == dict(
        wrapped, dataset=source)
    part = branch_loader(dict(dataset=dict(dataset, label='coarse')),
                         0)['dataset']
    assert part == dict(
        source,
        type='mcod_plugin.select_source',
        source='CIFAR10',
        label='coarse')
    assert data_part(
        dict(dataset=dict(dataset, classes=[3]))) == dict(classes=[3])


@SCHEDULE
def test_schedule(kind, monkeypatch):
    hook = dict(type=kind, gap=(2, 4), weight=(1, 1))
    cfg = dict(
        model=dict(branches=dict(a={}, b={})),
        custom_hooks=[hook],
        train_cfg=dict(max_epochs=8))
    assert recipe_differences(Config(cfg),
                              Config(dict(cfg, custom_hooks=[]))) == {}
    monkeypatch.setattr(cases, 'RUNNERS',
                        SimpleNamespace(build=lambda cfg: cfg))
    cfg = cases.cohort_runner(Config(cfg), 'work')
    assert [hook['on'] for hook in cfg.custom_hooks] == [cases.FOREVER]


@SCHEDULE
def test_a_method_s_hook_takes_the_place(kind, tmp_path):
    (tmp_path / 'own.py').write_text(
        'custom_hooks = ['
        "dict(type='mcod_plugin.DiscontinuousKDHook', weight=(2, 2))]\n")
    cfg = Config(
        dict(
            model=dict(branches={}),
            custom_hooks=[dict(type=kind),
                          dict(type='EMAHook')]))
    apply_method(cfg, str(tmp_path / 'own.py'))
    assert [hook.get('weight') for hook in cfg.custom_hooks] == [(2, 2), None]


@spelled(EnsembleTeacher, 'mcod_plugin.EnsembleTeacher')
def test_teacher(kind):
    cfg = dict(
        model=dict(
            branches=dict(a={}, b={}),
            teacher=dict(type=kind),
            distill=dict(type=DiscontinuousKDLoss)),
        custom_hooks=[dict(type=DiscontinuousKDHook, gap=(1, 1))],
        train_cfg=dict(max_epochs=8))
    run = run_of(cfg)
    run.record = dict(kd_weight=[1., 0., 1.])
    assert run.is_mcod
    run.record = dict(kd_weight=[0., 0., 0.])
    assert not run.is_mcod


@METRICS
def test_metrics(kind):
    metric = dict(type=kind, topk=(1, 5))
    assert evaluator(metric, 10) == dict(type='Accuracy', topk=(1, 5))
    _check_evaluator(metric)


@pytest.mark.parametrize('given', [
    dict(type='A', topk=1), [dict(type='A', topk=1)],
    (dict(type='A', topk=1), ),
    dict(type='Evaluator', metrics=dict(type='A', topk=1)),
    ConfigDict(metrics=[dict(type='A', topk=1)])
])
def test_metrics_of_an_evaluator(given):
    assert metric_configs(given) == [dict(type='A', topk=1)]
    assert metric_configs(None) == []


@spelled(AutocastOptimWrapper, 'mcod_plugin.AutocastOptimWrapper')
def test_precision_of_ours(kind):
    assert precision(dict(type=kind, dtype='bfloat16')) == 'bfloat16'


@spelled(AmpOptimWrapper, 'AmpOptimWrapper', 'mmengine.AmpOptimWrapper')
def test_precision_of_mmengine_s(kind):
    assert precision(dict(type=kind)) == 'float16'


@spelled(BranchOptimWrapperConstructor,
         'mcod_plugin.BranchOptimWrapperConstructor')
def test_a_branch_alone_needs_no_constructor_of_branches(kind):
    cfg = optim_wrapper_alone(
        dict(constructor=kind, optimizer={}),
        BranchSettings((32, 32)))
    assert cfg == dict(optimizer={})


@pytest.mark.parametrize('pipeline, size', [
    ([dict(type=RandomCrop, crop_size=(48, 32))], (48, 32)),
    ([dict(type=CenterCrop, crop_size=(48, 32))], (32, 48)),
    ([dict(type='mmpretrain.datasets.RandomCrop', crop_size=48)], 48),
])
def test_size_of_the_images(pipeline, size):
    assert pipeline_input_size([*pipeline, dict(type=PackInputs)]) == size


@spelled(PackInputs, 'PackInputs', 'mmpretrain.PackInputs')
def test_resizing_comes_last(kind):
    loader = dict(dataset=dict(type='CIFAR10', pipeline=[dict(type=kind)]))
    for pipeline in (loader_alone(loader, (8, 8))['dataset']['pipeline'],
                     branch_loader(loader, 0, (8, 8))['dataset']['pipeline']):
        assert [type_name(step)
                for step in pipeline] == ['Resize', 'PackInputs']
