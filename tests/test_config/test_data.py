import pytest

from mcod_plugin.config.data import (channel_order, dataset_layers,
                                     innermost_dataset, view_pipelines)


def test_layers_from_the_outside():
    inner = dict(type='CIFAR10', pipeline=[])
    both = dict(type='ConcatDataset', datasets=[inner, dict(type='Other')])
    outer = dict(type='RepeatDataset', times=2, dataset=both)
    assert list(dataset_layers(outer)) == [outer, both, inner]
    assert innermost_dataset(dict(dataset=outer)) is inner


@pytest.mark.parametrize('dataset', [None, 'CIFAR10', object()])
def test_no_config(dataset):
    assert list(dataset_layers(dataset)) == []
    assert innermost_dataset(dict(dataset=dataset)) == {}


def test_an_empty_wrapper():
    wrapper = dict(type='ConcatDataset', datasets=[])
    assert list(dataset_layers(wrapper)) == [wrapper]


LOAD, PACK = dict(type='LoadImageFromFile'), dict(type='PackInputs')
FLIP = dict(type='RandomFlip', prob=.5)


def test_pipelines_of_views():
    views = dict(
        type='mcod_plugin.BranchViews', pipelines=dict(a=[FLIP, PACK],
                                                       b=[PACK]))
    assert view_pipelines([LOAD, views]) == dict(
        a=[LOAD, FLIP, PACK], b=[LOAD, PACK])
    for pipeline in ([], [LOAD, PACK], [FLIP, str]):
        assert view_pipelines(pipeline) == {}


def test_colours_of_views():
    """The files may be read for each branch anew."""
    views = dict(
        type='mcod_plugin.BranchViews',
        pipelines=dict(a=[LOAD, PACK], b=[LOAD, PACK]))
    assert channel_order([views]) == 'BGR'
    views['pipelines'] = dict(a=[PACK])
    assert channel_order([views]) == 'RGB'
