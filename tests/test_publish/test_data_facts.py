import pytest
import yaml

from mcod_plugin.publish.data_facts import (data_facts, data_part, data_split,
                                            named_data)


@pytest.mark.parametrize('dataset, name, split', [
    (dict(type='mcod_plugin.InMemoryDataset', source='CIFAR100',
          split='test'), 'CIFAR-100', 'test'),
    (dict(type='CIFAR10', split='train'), 'CIFAR-10', 'train'),
    (dict(
        type='RepeatDataset',
        times=2,
        dataset=dict(type='ImageNet', split='val')), 'ImageNet-1k', 'val'),
    (dict(
        type='ConcatDataset',
        datasets=[dict(type='mcod_plugin.Digits'),
                  dict(type='CIFAR10')]), 'scikit-learn digits', None),
])
def test_known_data(dataset, name, split):
    loader = dict(dataset=dataset)
    assert data_facts(loader).name == name
    assert data_split(loader) == split


def test_terms_of_cifar():
    terms = data_facts(dict(dataset=dict(type='CIFAR100'))).terms
    assert 'Krizhevsky' in terms and 'no licence' in terms


def test_unknown_data():
    facts = data_facts(dict(dataset=dict(type='mine.Flowers')))
    assert facts.name == 'Flowers' and not facts.listed
    assert 'not known' in facts.terms


def test_names_given():
    facts = data_facts(dict(dataset=dict(type='CIFAR100')))
    assert named_data(facts, None, None) == facts
    # It is the one that the hub has.
    told = named_data(facts, 'CIFAR-100', 'Ask Alex.')
    assert told.listed and told.terms == 'Ask Alex.'
    own = named_data(facts, 'My Flowers (2026)', None)
    assert (own.name, own.hub, own.listed) == ('My Flowers (2026)',
                                               'my-flowers-2026', False)
    assert 'not known' in own.terms


def test_another_data_set_in_the_layout_of_imagenet():
    loader = dict(dataset=dict(type='ImageNet', data_root='imagenette'))
    assert data_facts(loader).listed and data_facts(loader, 1000).listed
    facts = data_facts(loader, 10)
    assert (facts.name, facts.listed) == ('ImageNet', False)


def test_known_by_its_name():
    facts = data_facts(dict(dataset=dict(type='CustomDataset')))
    assert named_data(facts, 'CIFAR-10', None).hub == 'uoft-cs/cifar10'
    assert named_data(facts, '!!!', None).hub == 'data'


def test_many_indices_are_counted():
    for many in (list(range(21)), tuple(range(5000))):
        dataset = dict(type='CIFAR10', indices=many)
        assert data_part(dict(dataset=dataset)) == dict(
            indices=f'{len(many)} of them')


def test_a_part_of_the_data():
    loader = dict(
        dataset=dict(
            type='RepeatDataset',
            times=2,
            dataset=dict(type='CIFAR10', indices=5, per_class=None)))
    assert data_part(loader) == dict(indices=5)
    assert data_part(dict(dataset=dict(type='CIFAR10'))) == {}
    # Other names for the same classes are no part of them.
    renamed = dict(type='CIFAR10', classes=list('abcdefghij'))
    assert data_part(dict(dataset=renamed)) == {}


def test_a_part_of_the_data_as_yaml():
    dataset = dict(
        type='mcod_plugin.InMemoryDataset',
        source='CIFAR10',
        per_class=(400, None),
        classes=('cat', 'dog'))
    part = data_part(dict(dataset=dataset))
    assert yaml.safe_load(yaml.dump(part)) == dict(
        per_class=[400, None], classes=['cat', 'dog'])
