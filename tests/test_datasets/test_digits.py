import sys

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import DATASETS as ROOT_DATASETS

from mcod_plugin.datasets import Digits
from mcod_plugin.errors import ConfigError
from mcod_plugin.registry import DATASETS

sklearn_datasets = pytest.importorskip('sklearn.datasets')


def images_of(dataset):
    return np.stack([item['img'] for item in dataset])


def key(image, label):
    """A sample as something hashable, from its 8 by 8 values of 0 to 255."""
    return image.astype(np.uint8).tobytes(), int(label)


def test_sizes():
    train, test = Digits('train'), Digits('test')
    assert (len(train), len(test)) == (1437, 360)
    assert len(Digits()) == 1437
    assert train.CLASSES == tuple('0123456789')
    item = test[0]
    assert item['img'].shape == (16, 16, 3)
    assert item['img'].dtype == np.uint8
    assert type(item['gt_label']) is int


def test_disjoint_and_complete():
    native = [Digits(split, size=8) for split in ('train', 'test')]
    train, test = ([
        key(item['img'][..., 0], item['gt_label']) for item in dataset
    ] for dataset in native)
    digits = sklearn_datasets.load_digits()
    everything = [
        key(np.floor(image * 255 / 16 + 0.5), label)
        for image, label in zip(digits.images, digits.target)
    ]
    assert len(set(everything)) == 1797  # no image occurs twice
    assert set(train) | set(test) == set(everything)
    assert not set(train) & set(test)


def test_stratified():
    counts = [
        np.bincount(Digits(split).get_gt_labels(), minlength=10)
        for split in ('train', 'test')
    ]
    train, test = (count / count.sum() for count in counts)
    assert np.abs(train - test).max() < 0.01
    held_out = counts[1] / (counts[0] + counts[1])
    assert np.abs(held_out - 0.2).max() < 0.01


@pytest.mark.parametrize('size', [8, 16, 40])
def test_pixels(size):
    images = images_of(Digits('test', size=size))
    assert images.shape == (360, size, size, 3)
    assert images.min() == 0 and images.max() == 255
    known = {
        image.astype(int).tobytes()
        for image in sklearn_datasets.load_digits().images
    }
    factor = size // 8
    for image in images:
        assert (image == image[..., :1]).all()
        corners = image[::factor, ::factor, 0]
        squares = np.kron(corners, np.ones((factor, factor), np.uint8))
        np.testing.assert_array_equal(image[..., 0], squares)
        # back on the scale of 0 to 16, it is an image of scikit-learn's
        assert np.rint(corners / 255 * 16).astype(int).tobytes() in known


def test_labels_belong_to_their_images():
    digits = sklearn_datasets.load_digits()
    labels = {
        image.astype(int).tobytes(): label
        for image, label in zip(digits.images, digits.target)
    }
    for item in Digits('train', size=8):
        image = np.rint(item['img'][..., 0] / 255 * 16).astype(int)
        assert labels[image.tobytes()] == item['gt_label']


def test_deterministic():
    np.random.seed(0)
    first = Digits('test')
    np.random.seed(1)
    second = Digits('test')
    np.testing.assert_array_equal(images_of(first), images_of(second))
    assert first.get_gt_labels().tolist() == second.get_gt_labels().tolist()


@pytest.mark.parametrize('registry', [DATASETS, ROOT_DATASETS])
def test_built_with_a_pipeline(registry):
    dataset = registry.build(
        ConfigDict(
            type='mcod_plugin.Digits',
            split='train',
            pipeline=[
                dict(type='RandomCrop', crop_size=16, padding=2),
                dict(type='PackInputs')
            ]))
    item = dataset[5]
    assert item['inputs'].shape == (3, 16, 16)
    assert item['inputs'].dtype == torch.uint8
    assert item['data_samples'].gt_label.shape == (1, )
    assert 'Split: \ttrain' in repr(dataset)


def test_base_arguments():
    metainfo = dict(classes=tuple('abcdefghij'))
    dataset = Digits('test', metainfo=metainfo, test_mode=True, indices=7)
    assert len(dataset) == 7
    assert dataset.CLASSES == tuple('abcdefghij')
    assert dataset.test_mode


@pytest.mark.parametrize('split', ['val', '', None, 1])
def test_bad_split(split):
    with pytest.raises(ConfigError, match='split of Digits must be one of'):
        DATASETS.build(dict(type='mcod_plugin.Digits', split=split))


@pytest.mark.parametrize('size', [0, -8, 4, 20, 16.0, '16', None, True])
def test_bad_size(size):
    with pytest.raises(ConfigError, match='size of Digits .* multiple of 8'):
        DATASETS.build(dict(type='mcod_plugin.Digits', size=size))


def test_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, 'sklearn', None)
    monkeypatch.setitem(sys.modules, 'sklearn.datasets', None)
    # what needs no data works without it
    assert Digits(lazy_init=True).CLASSES
    with pytest.raises(ConfigError, match=r'mcod-plugin\[quickstart\]') as e:
        DATASETS.build(dict(type='mcod_plugin.Digits'))
    assert '\n' not in str(e.value)
