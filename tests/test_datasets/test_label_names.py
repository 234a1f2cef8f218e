import numpy as np
import pytest
from mmengine.dataset import (ClassBalancedDataset, ConcatDataset,
                              RepeatDataset)
from mmpretrain.datasets import CIFAR10, KFoldDataset

from mcod_plugin.datasets import Digits, InMemoryDataset
from mcod_plugin.datasets.label_names import (LabelNames, label_names,
                                              name_mismatches, trained_names)

DIGITS = tuple('0123456789')
NAMED = Digits(metainfo=dict(classes=tuple('abcdefghij')), indices=20)


@pytest.mark.parametrize('wrap', [
    lambda data: data,
    lambda data: RepeatDataset(data, 2),
    lambda data: ClassBalancedDataset(data, 0.5),
    lambda data: KFoldDataset(
        dict(type='mcod_plugin.Digits', indices=20), num_splits=2),
    lambda data: RepeatDataset(dict(type='ConcatDataset', datasets=[data]), 2),
])
def test_names_within_wrappers(wrap):
    data = wrap(Digits(indices=20))
    assert list(label_names(data)) == [LabelNames(DIGITS)]


def test_parts_beside_each_other():
    """Parts of other names are told apart, unless the user joins them."""
    one = Digits(indices=20)
    both = [LabelNames(DIGITS), LabelNames(tuple('abcdefghij'))]
    assert list(label_names(ConcatDataset([one, one]))) == both[:1] * 2
    ignoring = ConcatDataset([one, NAMED], ignore_keys='classes')
    assert list(label_names(ignoring)) == both[:1]
    other = type('Parts', (), dict(datasets=[one, NAMED]))
    assert list(label_names(other)) == both


def test_names_in_memory():
    data = InMemoryDataset(
        'mcod_plugin.Digits', pipeline=[dict(type='PackInputs')], indices=9)
    assert list(label_names(data)) == [LabelNames(DIGITS)]


def test_names_of_the_toolbox_without_files():
    metainfo = CIFAR10.METAINFO
    data = type('Data', (), dict(metainfo=metainfo))
    assert next(label_names(data)).classes[:2] == ('airplane', 'automobile')


@pytest.mark.parametrize('metainfo', [
    None, {},
    dict(classes=None),
    dict(classes=()),
    dict(classes='classes.txt'),
    dict(classes=3), 'classes'
])
def test_data_without_names(metainfo):
    data = type('Data', (), dict(metainfo=metainfo))
    assert list(label_names(data)) == []
    assert list(label_names(object())) == []


def test_names_by_folder():
    data = type('Data', (),
                dict(metainfo={}, folder_to_idx=dict(dog=1, cat=0)))
    assert list(label_names(data)) == [LabelNames(None, ('cat', 'dog'))]


@pytest.mark.parametrize(
    'classes', [['a', 'b'],
                ('a', 'b'), np.array(['a', 'b'])])
def test_names_in_a_checkpoint(classes):
    content = dict(meta=dict(dataset_meta=dict(classes=classes)))
    assert trained_names(content) == ('a', 'b')


@pytest.mark.parametrize('content', [{},
                                     dict(meta=None),
                                     dict(meta={}),
                                     dict(meta=dict(dataset_meta=None)),
                                     dict(meta=dict(dataset_meta={}))])
def test_checkpoints_without_names(content):
    assert trained_names(content) is None


@pytest.mark.parametrize('given, wanted, words', [
    ('abc', 'abc', ''),
    (['a', 'b'], ('a', 'b'), ''),
    (None, 'abc', ''),
    ('abc', None, ''),
    ('ab', 'abc', 'lacks c'),
    ('abcd', 'ab', 'has c, d besides'),
    ('abd', 'abc', 'lacks c and has d besides'),
    ('acb', 'abc', 'has them in another order (label 1 is c, not b, 2 is b, '
     'not c)'),
    ('aab', 'ab', 'has them in another order (label 1 is a, not b)'),
    ('aba', 'ab', 'has one of them more than once'),
    ('', 'abcdefgh', ''),
    ('a', 'abcdefgh', 'lacks b, c, d, e, f and 2 more'),
])
def test_name_faults(given, wanted, words):
    assert name_mismatches(given, wanted) == words
