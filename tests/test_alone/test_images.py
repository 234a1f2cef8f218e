import weakref

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmpretrain.structures import DataSample
from torch.utils.data import Dataset

from mcod_plugin.alone.images import batches, validation_images
from mcod_plugin.errors import ConfigError


class CountedImages(Dataset):
    """Images of their number, and how many there were at a time.

    Args:
        length (int): Number of images.
        odd (str, optional): What is wrong with the last one.
    """

    metainfo = dict(classes=['a', 'b'])
    alive = most = 0

    def __init__(self, length, odd=None):
        self.length, self.odd = length, odd
        CountedImages.alive = CountedImages.most = 0

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        if index >= self.length:
            raise IndexError
        odd = self.odd if index == self.length - 1 else None
        image = torch.full((3, 4, 5 + (odd == 'size')), index).byte()
        cls = CountedImages
        cls.alive += 1
        cls.most = max(cls.most, cls.alive)
        weakref.finalize(image, self.forget)
        sample = DataSample()
        if odd != 'label':
            sample.set_gt_label(index % 2)
        return dict(inputs=image, data_samples=sample)

    @staticmethod
    def forget():
        CountedImages.alive -= 1


def images_of(limit=1000, **settings):
    loader = dict(
        batch_size=2,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=False),
        dataset=dict(type=CountedImages, **settings))
    return validation_images(Config(dict(val_dataloader=loader)), limit)


@pytest.mark.parametrize('limit, expected', [(1000, range(9)), (3, [0, 4, 8])])
def test_evenly_spread(limit, expected):
    images = images_of(limit, length=9)
    assert images.pixels.dtype == np.uint8 and images.labels.dtype == np.int64
    assert images.pixels.shape == (len(expected), 3, 4, 5)
    assert images.pixels[:, 0, 0, 0].tolist() == list(expected)
    assert (images.pixels == images.pixels[:, :1, :1, :1]).all()
    assert images.labels.tolist() == [index % 2 for index in expected]
    assert images.classes == ['a', 'b']
    assert images.source == f'{len(expected)} of 9 images of val_dataloader'


def test_none_is_kept_twice():
    """There may be room for all of them only once."""
    images_of(length=50)
    assert CountedImages.most <= 2


@pytest.mark.parametrize(
    'settings, text',
    [(dict(length=4, odd='size'), 'the images differ in size'),
     (dict(length=0), 'there are no images')])
def test_mistakes(settings, text):
    with pytest.raises(ConfigError) as caught:
        images_of(**settings)
    assert str(caught.value) == f'val_dataloader: {text}'


def test_no_data():
    with pytest.raises(ConfigError, match='neither val_dataloader nor test'):
        validation_images(Config(dict(model={})), 4)


def test_images_without_one_label_each():
    images = images_of(length=4, odd='label')
    assert images.labels is None and len(images.pixels) == 4


@pytest.mark.parametrize('number', [1, 2, 64, 65, 66, 200])
def test_batches(number):
    found = batches(number)
    taken = [index for begin, end in found for index in range(begin, end)]
    assert taken == list(range(number))
    # Of two sizes, if there are two images.
    assert found[0] == (0, 1) and len(found) == 1 + -(-(number - 1) // 64)
