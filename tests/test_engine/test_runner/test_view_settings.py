"""The runner tells data the branches, and refuses views that do not fit."""
import copy

import pytest
import torch
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from mcod_plugin.config.explain import explain
from mcod_plugin.errors import ConfigError
from mcod_plugin.registry import RUNNERS

PACK = dict(type='PackInputs')
CROP = dict(type='RandomCrop', crop_size=16, padding=2)
VIEWS = 'train_dataloader.dataset.views'
PIPELINE = 'train_dataloader.dataset.pipeline'
SUBSET = 'must name all branches, resnet, vit; it'


def by_branch(*names):
    return dict(
        type='mcod_plugin.BranchViews',
        pipelines={name: [CROP, PACK]
                   for name in names or ('resnet', 'vit')})


def first_batch(runner):
    return next(iter(runner.train_dataloader))


@pytest.mark.parametrize('wrapper', [None, 'RepeatDataset', 'ConcatDataset'])
def test_data_in_memory_are_told_the_branches(tiny_config, tiny_runner,
                                              wrapper):
    dataset = dict(tiny_config().train_dataloader.dataset, views=True)
    if wrapper == 'RepeatDataset':
        dataset = dict(type=wrapper, times=2, dataset=dataset)
    elif wrapper is not None:
        dataset = dict(type=wrapper, datasets=[dataset] * 2)
    runner = tiny_runner(
        epochs=1,
        **{
            'train_dataloader.dataset': dict(dataset, _delete_=True),
            'model.branches.resnet.frozen': True
        })
    batch = first_batch(runner)
    assert batch['inputs'].keys() == {'resnet', 'vit'}
    assert not torch.equal(batch['inputs']['resnet'], batch['inputs']['vit'])
    # As it was written, and as it can be trained by another cohort.
    assert "views=True" in runner.cfg.pretty_text
    assert "views=['resnet'" not in runner.cfg.pretty_text
    runner.train()


def test_pipelines(tiny_runner):
    runner = tiny_runner(
        epochs=1,
        in_memory=False,
        **{
            PIPELINE: [by_branch('vit', 'resnet')],
            'train_dataloader.num_workers': 2,
            'train_dataloader.collate_fn.type': 'pseudo_collate'
        })
    batch = first_batch(runner)['inputs']
    assert [len(batch[name]) for name in ('resnet', 'vit')] == [16, 16]
    runner.train()
    assert runner.message_hub.get_scalar('train/loss').current() > 0


def test_size_of_the_images(tiny_runner):
    """That of the views, where no other pipeline tells."""
    runner = tiny_runner(
        in_memory=False, **{
            PIPELINE: [by_branch()],
            'model.input_size': None
        })
    assert runner.model.input_size == (16, 16)


def test_a_loader_that_is_built(tiny_config, tiny_runner):
    """Nothing is known of it before; the first step tells."""
    cfg = tiny_config(**{VIEWS: ['resnet', 'vit']})
    loader = Runner.build_dataloader(cfg.train_dataloader, seed=0)
    runner = tiny_runner(epochs=1)
    runner._train_dataloader = loader
    assert isinstance(first_batch(runner)['inputs'], dict)
    assert isinstance(runner.train_dataloader, DataLoader)
    runner.train()


@pytest.mark.parametrize('changes, message', [
    ({
        VIEWS: ['resnet', 'vgg']
    }, f'{VIEWS} {SUBSET} lacks vit and has vgg'),
    ({
        PIPELINE: [by_branch('vit')]
    }, f'{PIPELINE}.0.pipelines {SUBSET} lacks resnet'),
    ({
        PIPELINE: [by_branch('resnet', 'vit', 'a')]
    }, f'{PIPELINE}.0.pipelines {SUBSET} has a'),
    ({
        PIPELINE: [by_branch(), PACK]
    }, f'{PIPELINE}: BranchViews must be the last step of the pipeline'),
    ({
        'val_dataloader.dataset.views': True
    }, 'val_dataloader.dataset.views: views of their own for branches are '
     'for training; validation and test take one image for all branches'),
    ({
        'test_dataloader.dataset.pipeline': [by_branch()]
    }, 'test_dataloader.dataset.pipeline.0.pipelines: views of their own for '
     'branches are for training; validation and test take one image for all '
     'branches'),
    ({
        VIEWS: True,
        'model.data_preprocessor.type': 'ClsDataPreprocessor'
    }, f'{VIEWS}: data_preprocessor.type ClsDataPreprocessor takes one image '
     'for all branches; leave it out, or set '
     'mcod_plugin.BatchDataPreprocessor'),
    ({
        VIEWS: 'all'
    }, 'train_dataloader.dataset: views of InMemoryDataset must be True, '
     "False or a list of the names of all branches; got 'all'"),
])
def test_refused(tiny_config, tiny_runner, changes, message):
    in_memory = not any(key.endswith('pipeline') for key in changes)
    cfg = tiny_config(in_memory=in_memory, **changes)
    with pytest.raises(Exception) as info:
        tiny_runner('other', in_memory=in_memory, **changes).train()
    assert str(explain(cfg, info.value)) == message


def test_a_model_without_branches(tiny_config):
    cfg = tiny_config(**{VIEWS: True})
    cfg.model = dict(
        type='ImageClassifier', backbone=cfg.model.branches.resnet.backbone)
    with pytest.raises(ConfigError) as info:
        RUNNERS.build(cfg)
    assert str(info.value) == (
        f'{VIEWS}: views are for the branches of a cohort, such as '
        'mcod_plugin.MultiBackboneClassifier; the model is of type '
        'ImageClassifier')


def test_all_parts_of_the_data_or_none(tiny_config, tiny_runner):
    dataset = tiny_config().train_dataloader.dataset
    other = dict(copy.deepcopy(dataset), views=True)
    with pytest.raises(ConfigError) as info:
        tiny_runner(
            **{
                'train_dataloader.dataset':
                dict(
                    type='ConcatDataset',
                    datasets=[dataset, other],
                    _delete_=True)
            })
    assert str(info.value) == (
        'train_dataloader.dataset.datasets must all have views of the '
        'branches, or none of them')


def test_other_runners_need_the_names(tiny_config):
    runner = Runner.from_cfg(tiny_config('a', 1, **{VIEWS: True}))
    with pytest.raises(ConfigError, match='views=True.*elsewhere list them'):
        runner.train()
    Runner.from_cfg(tiny_config('b', 1, **{VIEWS: ['vit', 'resnet']})).train()
