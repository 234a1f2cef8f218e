import pytest

from mcod_plugin.config.data import dataset_layers, innermost_dataset


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
