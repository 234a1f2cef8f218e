import gc
import itertools
import pickle
from collections import Counter
from pathlib import Path

import mmcv
import numpy as np
import pytest
import torch
from mmcv.transforms import CenterCrop, RandomFlip
from mmengine.config import Config
from mmengine.registry import DATASETS as ROOT_DATASETS
from mmpretrain.datasets import CIFAR100, BaseDataset, PackInputs, RandomCrop
from mmpretrain.registry import DATASETS as MMPRETRAIN_DATASETS
from scipy.stats import binomtest, chi2_contingency, chisquare

from mcod_plugin.config.explain import explain
from mcod_plugin.datasets import (Digits, InMemoryDataset, batch_transforms,
                                  in_memory_dataset)
from mcod_plugin.datasets.batch_transforms import to_device
from mcod_plugin.engine.hooks.label_check_hook import label_bounds
from mcod_plugin.errors import ConfigError
from mcod_plugin.registry import DATASETS
from mcod_plugin.structures import BatchDataSample

PACK = dict(type='PackInputs')
FLIP = dict(type='RandomFlip', prob=0.5)
# A fixed seed gives the same draws every time; the bound is for whoever
# changes how they are drawn.
P_VALUE = 1e-4
CIFAR = Path(__file__).parents[2] / 'data' / 'cifar-100-python'


@DATASETS.register_module()
class MarkedImages(BaseDataset):
    """Images of which no two pixels are the same, the labels not in order."""

    METAINFO = dict(classes=tuple('abcdefg'))

    def __init__(self,
                 num=3,
                 size=(16, 16),
                 channels=3,
                 dtype=np.uint8,
                 labels=None,
                 pipeline=(),
                 **kwargs):
        self.num, self.size, self.channels = num, size, channels
        self.dtype, self.labels = dtype, labels or [5, 0, 3, 3, 1, 6, 2]
        super().__init__(ann_file='', pipeline=pipeline, **kwargs)

    def load_data_list(self):
        height, width = self.size
        place = np.arange(1, height * width + 1).reshape(height, width)
        images = [
            np.stack([
                place % 251 + 1, place // 251 + 10 * index + 1,
                255 - place % 251
            ], -1)[..., :self.channels].astype(self.dtype)
            for index in range(self.num)
        ]
        return [
            dict(img=image, gt_label=label)
            for image, label in zip(images, itertools.cycle(self.labels))
        ]


@DATASETS.register_module()
class GreyImages(MarkedImages):
    """The same with one channel, with or without an axis for it."""

    def __init__(self, axis=False, **kwargs):
        self.axis = axis
        super().__init__(channels=1, size=(9, 8), **kwargs)

    def load_data_list(self):
        infos = super().load_data_list()
        for index, info in enumerate(infos):
            image = info['img'] + 80 * index
            info['img'] = image if self.axis else image[..., 0]
        return infos


def config(source='MarkedImages', pipeline=(PACK, ), **kwargs):
    return dict(
        type='mcod_plugin.InMemoryDataset',
        source=f'mcod_plugin.{source}',
        pipeline=list(pipeline),
        device='cpu',
        **kwargs)


def original(cfg):
    """The data set of the toolbox that is held in memory."""
    # To serialise them takes longer than all else, for a few images.
    cfg = dict(cfg, type=cfg['source'], serialize_data=False)
    for key in ('source', 'device', 'max_gib', 'views'):
        cfg.pop(key, None)
    return MMPRETRAIN_DATASETS.build(cfg)


def views(dataset):
    """All that a data set's random pipeline can make of its images.

    Returns:
        dict: Number of the image, top, left and direction of the flip, by the
        bytes of what is made of it.
    """
    transforms = dataset.pipeline.transforms
    crop = next((t for t in transforms if isinstance(t, RandomCrop)), None)
    flip = next((t for t in transforms if hasattr(t, '_choose_direction')),
                None)
    found = {}
    for index in range(len(dataset)):
        tops = lefts = [0]
        if crop is not None:
            info = dataset.get_data_info(index)
            for transform in transforms[:transforms.index(crop)]:
                info = transform(info)
            image = info['img']
            if crop.padding is not None:
                image = mmcv.impad(image, padding=crop.padding)
            rows, columns = crop.crop_size
            tops = range(image.shape[0] - rows + 1)
            lefts = range(image.shape[1] - columns + 1)
        directions = [None] if flip is None else [None, flip.direction]
        for top, left, direction in itertools.product(tops, lefts, directions):
            if crop is not None:
                crop.rand_crop_params = lambda _: (top, left, *crop.crop_size)
            if flip is not None:
                flip._choose_direction = lambda: direction
            found[key(dataset[index]['inputs'])] = (index, top, left,
                                                    direction)
    return found


def key(image):
    return tuple(image.shape), image.numpy().tobytes()


def draw(dataset, number):
    """Batches of so many images, all in the same numbers and mixed up."""
    indices = torch.arange(number) % len(dataset)
    indices = indices[torch.randperm(number)].tolist()
    return dataset.__getitems__(indices), indices


def read(batch, known):
    """Where in their images the images of a batch come from."""
    assert batch['inputs'].dtype == torch.uint8
    return [known[key(image)] for image in batch['inputs']]


# Every one of them is what the toolbox makes of it

CROP = dict(type='RandomCrop', crop_size=16, padding=4)
PIPELINES = dict(
    cifar=[CROP, FLIP, PACK],
    no_flip=[CROP, PACK],
    no_crop=[FLIP, PACK],
    nothing=[PACK],
    pair=[dict(CROP, padding=(3, 1)), FLIP, PACK],
    four=[dict(CROP, padding=(1, 0, 2, 3)), PACK],
    value=[dict(CROP, padding=2, pad_val=7), PACK],
    values=[dict(CROP, padding=2, pad_val=(7, 8, 9)), FLIP, PACK],
    mode=[dict(CROP, padding=2, padding_mode='reflect'), PACK],
    inside=[dict(type='RandomCrop', crop_size=(14, 11)), FLIP, PACK],
    oblong=[
        dict(type='RandomCrop', crop_size=[18, 13], padding=(0, 2)),
        dict(FLIP, direction='vertical'), PACK
    ],
    whole=[dict(type='RandomCrop', crop_size=16), FLIP, PACK],
    vertical=[
        dict(type='RandomCrop', crop_size=(16, 15)),
        dict(FLIP, direction='vertical'), PACK
    ],
    diagonal=[
        dict(type='RandomCrop', crop_size=14),
        dict(FLIP, direction='diagonal'), PACK
    ])
SOURCES = dict(
    square={},
    oblong=dict(size=(18, 17)),
    grey=dict(source='GreyImages'),
    grey_axis=dict(source='GreyImages', axis=True))
# The toolbox has no tuple of values for images that have no axis of channels.
CASES = [(source, pipeline)
         for source, pipeline in itertools.product(SOURCES, PIPELINES)
         if not (source.startswith('grey') and pipeline == 'values')]


@pytest.mark.parametrize('source, pipeline', CASES)
def test_same_images_as_the_toolbox(source, pipeline):
    steps = [dict(step) for step in PIPELINES[pipeline]]
    if source.startswith('grey') and 'crop_size' in steps[0]:
        # These images are smaller.
        steps[0]['crop_size'] = (8, 6)
    cfg = config(**{'pipeline': steps, **SOURCES[source]})
    toolbox = original(cfg)
    known = views(toolbox)
    dataset = DATASETS.build(cfg)
    torch.manual_seed(0)
    batch, indices = draw(dataset, 20 * len(known))
    # Each is one of those that the toolbox makes, and all of these occur.
    found = read(batch, known)
    assert set(found) == set(known.values())
    assert [index for index, *_ in found] == indices

    inputs, samples = batch['inputs'], batch['data_samples']
    # To MMPretrain's preprocessor as well, which changes no format.
    assert inputs.is_contiguous()
    labels = [toolbox.get_data_info(index)['gt_label'] for index in indices]
    assert samples.fields['gt_label'].tolist() == labels
    assert samples.fields['sample_idx'].tolist() == indices
    assert list(samples.fields) == ['gt_label', 'sample_idx']


@pytest.mark.parametrize('steps', [
    [
        dict(type='ResizeEdge', scale=20, edge='short'),
        dict(type='CenterCrop', crop_size=(18, 20))
    ],
    [dict(type='Resize', scale=(14, 12))],
    [dict(type='CenterCrop', crop_size=9)],
])
def test_folder_of_images(tmp_path, steps):
    rng = np.random.default_rng(0)
    for index, size in enumerate([(24, 30), (31, 25), (26, 26), (40, 22)]):
        mmcv.imwrite(
            rng.integers(0, 256, (*size, 3), np.uint8),
            str(tmp_path / 'ba'[index % 2] / f'{index}.png'))
    cfg = config('', [dict(type='LoadImageFromFile'), *steps, PACK])
    cfg.update(source='CustomDataset', data_root=str(tmp_path))
    toolbox, dataset = original(cfg), DATASETS.build(cfg)
    assert len(dataset) == 4
    assert dataset.metainfo == toolbox.metainfo
    assert dataset.metainfo['classes'] == ('a', 'b')
    batch = dataset.__getitems__([3, 0, 1, 2])
    assert batch['data_samples'].fields['gt_label'].tolist() == [1, 0, 0, 1]
    for image, index in zip(batch['inputs'], [3, 0, 1, 2]):
        assert torch.equal(image, toolbox[index]['inputs'])


def test_crop_of_images_from_a_folder(tmp_path):
    """What is done once, and what is drawn for each batch."""
    image = MarkedImages(num=1, size=(20, 24))[0]['img']
    mmcv.imwrite(image, str(tmp_path / 'a' / '0.png'))
    cfg = config('', [
        dict(type='LoadImageFromFile'),
        dict(type='CenterCrop', crop_size=(12, 14)),
        dict(type='RandomCrop', crop_size=(14, 12), padding=1), FLIP, PACK
    ])
    cfg.update(source='CustomDataset', data_root=str(tmp_path))
    known = views(original(cfg))
    assert len(known) == 9 * 2
    torch.manual_seed(0)
    batch, _ = draw(DATASETS.build(cfg), 300)
    assert set(read(batch, known)) == set(known.values())


def test_digits():
    """Without random transforms it is the data set itself."""
    cfg = config('Digits', split='test')
    dataset, toolbox = DATASETS.build(cfg), Digits('test', pipeline=[PACK])
    assert len(dataset) == len(toolbox) == 360
    assert dataset.metainfo == toolbox.metainfo
    assert torch.equal(
        dataset.__getitems__(range(360))['inputs'],
        torch.stack([item['inputs'] for item in toolbox]))
    assert dataset.get_gt_labels().tolist() == (
        toolbox.get_gt_labels().tolist())
    assert [dataset.get_cat_ids(i)
            for i in range(5)] == [toolbox.get_cat_ids(i) for i in range(5)]


# Some images of each class


def counted(labels, start, stop):
    """The images number ``start`` to ``stop`` of each class, one by one."""
    seen, chosen = Counter(), []
    for index, label in enumerate(labels):
        if start <= seen[label] and (stop is None or seen[label] < stop):
            chosen.append(index)
        seen[label] += 1
    return chosen


@pytest.mark.parametrize('source, pairs', [
    ('mcod_plugin.Digits', [(0, 100), (100, None)]),
    pytest.param(
        'CIFAR100', [(0, 400), (400, 500)],
        marks=pytest.mark.skipif(
            not (CIFAR / 'train').exists(), reason='needs CIFAR-100')),
])
def test_two_parts(source, pairs):
    cfg = config(split='train')
    cfg.update(source=source)
    if source == 'CIFAR100':
        cfg.update(data_root=str(CIFAR.parent), download=False)
    whole = DATASETS.build(cfg)
    labels = whole.labels.tolist()
    parts = [counted(labels, *pair) for pair in pairs]
    assert not set(parts[0]) & set(parts[1])
    assert set(parts[0]) | set(parts[1]) == set(range(len(whole)))
    for pair, part in zip(pairs, parts):
        # as a config file may hold it
        dataset = DATASETS.build(dict(cfg, per_class=list(pair)))
        assert torch.equal(dataset.labels, whole.labels[part])
        assert torch.equal(dataset.images, whole.images[part])
        if pair[1] is not None:
            counts = dataset.labels.bincount()
            assert (counts == pair[1] - pair[0]).all()


def test_per_class_takes_no_more_room_than_its_images():
    cfg = config(num=700, labels=list(range(7)), per_class=(3, 5))
    cfg['max_gib'] = 14 * 16 * 16 * 3 / 2**30
    dataset = DATASETS.build(cfg)
    # without the room of the others behind a view
    assert len(dataset) == 14
    assert dataset.images.untyped_storage().nbytes() == 14 * 16 * 16 * 3
    with pytest.raises(ConfigError, match='max_gib'):
        DATASETS.build(dict(cfg, per_class=None))


def test_other_images_are_not_loaded(tmp_path):
    for index in range(4):
        mmcv.imwrite(
            MarkedImages(num=1)[0]['img'],
            str(tmp_path / 'ab'[index % 2] / f'{index}.png'))
    (tmp_path / 'b' / '3.png').write_bytes(b'')
    cfg = config('', [dict(type='LoadImageFromFile'), PACK], per_class=(0, 1))
    cfg.update(source='CustomDataset', data_root=str(tmp_path))
    assert DATASETS.build(cfg).labels.tolist() == [0, 1]
    with pytest.raises(ConfigError, match='CustomDataset: image 3, .*3.png'):
        DATASETS.build(dict(cfg, per_class=(1, 2)))


# Some of the classes, and classes of classes


@DATASETS.register_module()
class FourClasses(CIFAR100):
    """Files like those of CIFAR-100, written by ``tiny_cifar``."""

    train_list, test_list = [['train', None]], [['test', None]]
    meta = dict(filename='meta', key='fine_label_names', md5=None)


@pytest.fixture
def tiny_cifar(tmp_path):
    """Four classes of CIFAR-100 and their superclasses; no image is like
    another."""
    folder = tmp_path / 'cifar-100-python'
    folder.mkdir()
    # apple, aquarium_fish, flatfish and pear: numbers, and numbers above
    coarse = {0: 4, 1: 1, 32: 1, 57: 4}
    for split, number in (('train', 24), ('test', 8)):
        fine = [(0, 57, 32, 1, 57)[index % 5] for index in range(number)]
        data = np.arange(number, dtype=np.uint8)[:, None].repeat(3072, 1)
        with open(folder / split, 'wb') as file:
            pickle.dump(
                dict(
                    data=data,
                    fine_labels=fine,
                    coarse_labels=[coarse[label] for label in fine]), file)
    with open(folder / 'meta', 'wb') as file:
        pickle.dump(dict(coarse_label_names=COARSE), file)
    cfg = config('FourClasses', data_root=str(tmp_path), split='train')
    return cfg


COARSE = ['mammals', 'fish', 'flowers', 'containers', 'fruit', 'devices']


def contents(dataset):
    """The numbers of the images and their labels."""
    return dataset.images[:, 0, 0, 0].tolist(), dataset.labels.tolist()


@pytest.mark.parametrize('classes', [['pear', 'apple'], (57, 'apple')])
def test_classes_in_their_order(tiny_cifar, classes):
    dataset = DATASETS.build(dict(tiny_cifar, classes=classes))
    numbers = [n for n in range(24) if n % 5 in (0, 1, 4)]
    assert contents(dataset) == (numbers, [int(n % 5 == 0) for n in numbers])
    assert dataset.metainfo['classes'] == dataset.CLASSES == ('pear', 'apple')
    assert dataset.get_data_info(0)['gt_label'] == 1
    batch = dataset.__getitems__([0, 1])
    assert batch['data_samples'].fields['gt_label'].tolist() == [1, 0]
    assert label_bounds(dataset) == (0, 1)


def test_classes_of_a_file(tiny_cifar, tmp_path):
    file = tmp_path / 'classes.txt'
    file.write_text('pear\napple\n')
    dataset = DATASETS.build(dict(tiny_cifar, classes=str(file)))
    assert dataset.CLASSES == ('pear', 'apple')


@pytest.mark.parametrize('split, number', [('train', 24), ('test', 8)])
def test_coarse_labels(tiny_cifar, split, number):
    cfg = dict(tiny_cifar, split=split)
    dataset = DATASETS.build(dict(cfg, label='coarse'))
    assert contents(dataset) == (list(range(number)), [
        (4, 4, 1, 1, 4)[n % 5] for n in range(number)
    ])
    assert dataset.CLASSES == tuple(COARSE)
    fine = DATASETS.build(dict(cfg, label='fine', classes=None))
    assert fine.labels.tolist() == DATASETS.build(cfg).labels.tolist()
    assert fine.CLASSES == CIFAR100.METAINFO['classes']


def test_parts_go_together(tiny_cifar):
    """``per_class`` counts by the labels that are left."""
    cfg = dict(tiny_cifar, label='coarse', classes=['fruit', 'fish'])
    parts = [
        contents(DATASETS.build(dict(cfg, per_class=pair)))
        for pair in ((0, 3), (3, None))
    ]
    # two images of fish after every three of fruit
    assert parts[0] == ([0, 1, 2, 3, 4, 7], [0, 0, 1, 1, 0, 1])
    assert sorted(parts[0][0] + parts[1][0]) == list(range(24))
    # The source is cut first.
    few = DATASETS.build(dict(cfg, classes=['fish'], indices=[2, 5, 3]))
    assert contents(few) == ([2, 3], [0, 0])
    with pytest.raises(
            ConfigError,
            match=r"needs 9 images of .*, but there are 0 of class 'bear'"):
        DATASETS.build(
            dict(tiny_cifar, classes=['pear', 'bear'], per_class=(0, 9)))


def test_classes_of_data_without_names():
    """Names are given to them as in the toolbox, numbers select."""
    cfg = config('NamelessImages', num=7)
    dataset = DATASETS.build(dict(cfg, classes=[3, 5]))
    assert dataset.labels.tolist() == [1, 0, 0]
    assert dataset.CLASSES is None
    dataset = DATASETS.build(dict(cfg, classes=list('abcdefg')))
    assert dataset.labels.tolist() == [5, 0, 3, 3, 1, 6, 2]
    assert dataset.CLASSES == tuple('abcdefg')
    # One too few is seen by whoever checks the labels.
    dataset = DATASETS.build(dict(cfg, classes=list('abcdef')))
    assert label_bounds(dataset) == (0, 6)


@DATASETS.register_module()
class NamelessImages(MarkedImages):
    METAINFO = {}


@pytest.mark.parametrize('changes, words', [
    (dict(classes=['perr', 'apple']),
     "mcod_plugin.FourClasses: classes of InMemoryDataset has 'perr', which "
     'is no class of these data; did you mean pear'),
    (dict(classes=['xyz']), 'there are apple, aquarium_fish, baby, bear, '
     'beaver, ...; to rename them, set metainfo=dict(classes=...)'),
    (dict(classes=['pear'], label='coarse'),
     "has 'pear', which is no class of these data; there are mammals, fish"),
    (dict(classes=['pear', 57]),
     "has class 57 (pear) twice; got ['pear', 57]"),
    (dict(classes=[3, 100]),
     'has 100, which is no class of these data; there are the numbers 0 to '
     '99'),
    (dict(classes=[True]), 'has True, which is no class'),
    (dict(classes=[]), 'classes of InMemoryDataset must be a list of names or '
     'numbers of classes; got []'),
    (dict(classes='none.txt'), 'none.txt'),
    (dict(classes=['bear']), 'mcod_plugin.FourClasses is empty'),
    (dict(label='rough'), 'label of InMemoryDataset must be one of coarse, '
     "fine; got 'rough'"),
    (dict(label='coarse', source='mcod_plugin.Digits'),
     "mcod_plugin.Digits: label of InMemoryDataset is 'coarse', but these "
     "data have no coarse labels, as CIFAR100 has; use 'fine'"),
])
def test_mistakes_in_classes(tiny_cifar, changes, words):
    if 'source' in changes:
        del tiny_cifar['data_root']
    with pytest.raises(ConfigError) as info:
        DATASETS.build({**tiny_cifar, **changes})
    assert words in str(info.value) and '\n' not in str(info.value)


def test_damaged_names(tiny_cifar, monkeypatch):
    """No file is opened that is not the one that it should be."""
    monkeypatch.setattr(FourClasses, 'meta',
                        dict(FourClasses.meta, md5='0' * 32))
    assert len(DATASETS.build(tiny_cifar)) == 24
    with pytest.raises(ConfigError, match='meta is missing or damaged$'):
        DATASETS.build(dict(tiny_cifar, label='coarse'))


@pytest.mark.skipif(not (CIFAR / 'train').exists(), reason='needs CIFAR-100')
def test_superclasses_of_cifar100():
    cfg = dict(
        config(split='test', data_root=str(CIFAR.parent), download=False),
        source='CIFAR100')
    dataset = DATASETS.build(dict(cfg, label='coarse'))
    fine = DATASETS.build(dict(cfg, classes=['rocket', 'tank', 'lawn_mower']))
    with open(CIFAR / 'test', 'rb') as file:
        labels = pickle.load(file, encoding='latin1')['coarse_labels']
    assert dataset.labels.tolist() == labels
    assert dataset.labels.bincount().tolist() == [500] * 20
    assert dataset.CLASSES[19] == 'vehicles_2'
    # as the page of the data has them
    vehicles = DATASETS.build(
        dict(cfg, label='coarse', classes=['vehicles_2'])).images
    assert len(vehicles) == 500
    known = {image.numpy().tobytes() for image in vehicles}
    assert len(fine) == 300
    assert all(image.numpy().tobytes() in known for image in fine.images)


# They are drawn as the toolbox does


def test_all_views_are_equally_likely():
    """81 places of the window, each of them mirrored or not."""
    cfg = config(pipeline=PIPELINES['cifar'])
    known = views(original(cfg))
    assert len(known) == 3 * 81 * 2
    dataset = DATASETS.build(cfg)
    torch.manual_seed(0)
    number = 40 * len(known)
    batch, _ = draw(dataset, number)
    found = read(batch, known)
    counts = [found.count(view) for view in known.values()]
    assert min(counts) > 0
    assert chisquare(counts).pvalue > P_VALUE


def test_images_of_a_batch_are_independent():
    dataset = DATASETS.build(config(num=1, pipeline=PIPELINES['cifar']))
    known = views(original(config(num=1, pipeline=PIPELINES['cifar'])))
    torch.manual_seed(0)
    found = read(draw(dataset, 8000)[0], known)
    draws = np.array([(top, left, direction is not None)
                      for _, top, left, direction in found])
    assert [len(set(column)) for column in draws.T] == [9, 9, 2]
    # Of one image, of it and the next, and of two that are far apart.
    for distance in (0, 1, 4000):
        for first, second in itertools.product(range(3), range(3)):
            if distance == 0 and first >= second:
                continue
            table = np.zeros((9, 9))
            np.add.at(table,
                      (draws[:, first], np.roll(draws[:, second], distance)),
                      1)
            # a flip has two values only
            table = table[table.any(1)][:, table.any(0)]
            assert chi2_contingency(table).pvalue > P_VALUE


def test_batches_differ():
    dataset = DATASETS.build(config(num=1, pipeline=PIPELINES['cifar']))
    torch.manual_seed(0)
    first, second = (draw(dataset, 50)[0]['inputs'] for _ in range(2))
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    assert torch.equal(draw(dataset, 50)[0]['inputs'], first)


@pytest.mark.parametrize('prob', [0., 0.3, 1.])
def test_share_of_flips(prob):
    cfg = config(num=1, pipeline=[dict(FLIP, prob=prob), PACK])
    dataset = DATASETS.build(cfg)
    known = views(original(cfg))
    torch.manual_seed(0)
    found = read(draw(dataset, 4000)[0], known)
    flips = sum(direction is not None for *_, direction in found)
    if prob in (0, 1):
        assert flips == 4000 * prob
    else:
        assert binomtest(flips, 4000, prob).pvalue > P_VALUE


def test_images_in_memory_stay():
    """Flipping works on a copy."""
    for pipeline in ('cifar', 'no_crop'):
        dataset = DATASETS.build(config(pipeline=PIPELINES[pipeline]))
        before = dataset.images.clone()
        batch, _ = draw(dataset, 30)
        batch['inputs'].zero_()
        assert torch.equal(dataset.images, before)


# Views of their own for branches


def test_each_view_is_a_batch_of_its_own():
    cfg = config(num=1, pipeline=PIPELINES['cifar'])
    known = views(original(cfg))
    dataset = DATASETS.build(dict(cfg, views=['b', 'a']))
    assert dataset.views == ('a', 'b')
    torch.manual_seed(0)
    batch, _ = draw(dataset, 8000)
    assert batch['inputs'].keys() == {'a', 'b'}
    draws = []
    for name in 'ab':
        images = batch['inputs'][name]
        # To MMPretrain's preprocessor as well.
        assert images.is_contiguous() and images.shape == (8000, 3, 16, 16)
        found = read(dict(inputs=images), known)
        counts = Counter(found)
        assert chisquare([counts[view] for view in known.values()
                          ]).pvalue > P_VALUE
        draws.append([(top, left, direction is not None)
                      for _, top, left, direction in found])
    # What one shows tells nothing of what the other does.
    for place in range(3):
        table = np.zeros((9, 9))
        np.add.at(table, tuple(np.array(draws)[:, :, place].astype(int)), 1)
        table = table[table.any(1)][:, table.any(0)]
        assert chi2_contingency(table).pvalue > P_VALUE


@pytest.mark.parametrize('pipeline', ['cifar', 'no_crop', 'nothing'])
def test_views_show_the_same_images(pipeline):
    cfg = config(pipeline=PIPELINES[pipeline])
    known = views(original(cfg))
    dataset = DATASETS.build(dict(cfg, views=('a', 'b', 'c')))
    batch, indices = draw(dataset, 20)
    for images in batch['inputs'].values():
        assert [index for index, *_ in read(dict(inputs=images),
                                            known)] == indices
    fields = batch['data_samples'].fields
    assert fields['sample_idx'].tolist() == indices
    assert fields['gt_label'].tolist() == dataset.labels[indices].tolist()


def test_a_single_view_is_what_all_have_otherwise():
    cfg = config(pipeline=PIPELINES['cifar'])
    batches = []
    for changes in (dict(views=['a']), dict(views=False)):
        dataset = DATASETS.build(dict(cfg, **changes))
        torch.manual_seed(0)
        batches.append(dataset.__getitems__([2, 0, 1])['inputs'])
    assert torch.equal(batches[0]['a'], batches[1])


def test_views_do_not_depend_on_the_order_of_the_branches():
    cfg = config(pipeline=PIPELINES['cifar'])
    batches = []
    for names in (['a', 'b'], ['b', 'a']):
        dataset = DATASETS.build(dict(cfg, views=names))
        torch.manual_seed(0)
        batches.append(dataset.__getitems__(range(3))['inputs'])
    for name in 'ab':
        assert torch.equal(batches[0][name], batches[1][name])
    assert not torch.equal(batches[0]['a'], batches[0]['b'])


def test_views_of_one_image():
    """One at a time, as wrappers ask for them."""
    cfg = config(pipeline=PIPELINES['cifar'])
    known = views(original(cfg))
    dataset = DATASETS.build(dict(cfg, views=['a', 'b']))
    np.random.seed(0)
    items = [dataset[2] for _ in range(50)]
    found = [[known[key(item['inputs'][name])] for name in 'ab']
             for item in items]
    assert {index for pair in found for index, *_ in pair} == {2}
    assert sum(one == other for one, other in found) < 5
    assert items[0]['data_samples'].gt_label.tolist() == [3]


# As a data set


def test_one_image():
    dataset = DATASETS.build(config(pipeline=PIPELINES['cifar']))
    known = views(original(config(pipeline=PIPELINES['cifar'])))
    item = dataset[2]
    assert known[key(item['inputs'])][0] == 2
    sample = item['data_samples']
    assert sample.gt_label.tolist() == [3] and sample.sample_idx == 2
    assert dataset[-1]['data_samples'].sample_idx == 2
    assert len(list(dataset)) == len(dataset) == 3
    for index in (3, -4):
        with pytest.raises(IndexError):
            dataset[index]


@pytest.mark.parametrize('padding', [None, 3, (2, 1), (4, 3, 2, 1)])
@pytest.mark.parametrize('source', ['MarkedImages', 'GreyImages'])
def test_one_image_as_it_was_loaded(source, padding):
    cfg = config(
        source,
        pipeline=[dict(type='RandomCrop', crop_size=8, padding=padding), PACK])
    dataset, toolbox = DATASETS.build(cfg), original(cfg)
    for index in (0, 2, -1):
        info = dataset.get_data_info(index)
        known = toolbox.get_data_info(index % 3)
        assert info['sample_idx'] == known['sample_idx'] == index % 3
        assert info['gt_label'] == known['gt_label']
        image = known['img'].reshape(*known['img'].shape[:2], -1)
        np.testing.assert_array_equal(info['img'], image)
        info['img'][:] = 0
        assert dataset.get_data_info(index)['img'].any()
    with pytest.raises(IndexError):
        dataset.get_data_info(3)


def test_all_views_of_one_image():
    """One at a time, it is augmented as in a batch."""
    dataset = DATASETS.build(config(num=1, pipeline=PIPELINES['cifar']))
    known = views(original(config(num=1, pipeline=PIPELINES['cifar'])))
    np.random.seed(0)
    counts = Counter(key(dataset[0]['inputs']) for _ in range(4000))
    assert set(counts) == set(known)
    assert chisquare(list(counts.values())).pvalue > P_VALUE


@pytest.mark.parametrize('wrapper, numbers', [
    (dict(type='RepeatDataset', times=2), [0, 1, 2, 0, 1, 2]),
    (dict(type='ConcatDataset'), [0, 1, 2, 0, 1, 2]),
    (dict(type='ClassBalancedDataset', oversample_thr=.5), None),
    (dict(type='KFoldDataset', num_splits=3, fold=1), [0, 1]),
    (dict(type='KFoldDataset', num_splits=3, fold=1, test_mode=True), [0]),
])
def test_wrapped(wrapper, numbers):
    """A wrapper's images are the toolbox's, one by one."""
    found = []
    for inner in (config(),
                  dict(type='mcod_plugin.MarkedImages', pipeline=[PACK])):
        if wrapper['type'] == 'ConcatDataset':
            inner = dict(datasets=[inner, inner])
        else:
            inner = dict(dataset=inner)
        dataset = MMPRETRAIN_DATASETS.build({**wrapper, **inner})
        found.append([
            (item['data_samples'].sample_idx,
             item['data_samples'].gt_label.item(), key(item['inputs']))
            for item in map(dataset.__getitem__, range(len(dataset)))
        ])
    assert found[0] == found[1]
    assert numbers in (None, [number for number, *_ in found[0]])


def test_subset():
    """As MMEngine's data sets give it, by numbers or from either end."""
    dataset = MMPRETRAIN_DATASETS.build(config())
    known = MMPRETRAIN_DATASETS.build(
        dict(type='mcod_plugin.MarkedImages', pipeline=[PACK]))
    assert dataset.get_cat_ids(0) == known.get_cat_ids(0)
    for indices in ([2, 0], [], 2, -1):
        part, other = dataset.get_subset(indices), known.get_subset(indices)
        assert len(part) == len(other) < len(dataset) == 3
        labels = [other.get_cat_ids(i)[0] for i in range(len(other))]
        assert part.get_gt_labels().tolist() == labels
        assert [part.get_cat_ids(i)[0] for i in range(len(part))] == labels
        for i in range(len(part)):
            assert key(part[i]['inputs']) == key(other[i]['inputs'])


def test_single_images_leave_the_device_alone():
    """After the first one, what is on the device is not asked any more."""
    dataset = DATASETS.build(config(pipeline=PIPELINES['cifar']))
    wanted = dataset.get_data_info(1)
    # Reading from there would fail.
    dataset.images = dataset.images.to('meta')
    dataset.labels = dataset.labels.to('meta')
    found = dataset.get_data_info(1)
    np.testing.assert_array_equal(found.pop('img'), wanted.pop('img'))
    assert found == wanted == dict(gt_label=0, sample_idx=1)
    assert dataset.get_cat_ids(2) == [3]


def test_a_batch_is_told_its_places_at_once(monkeypatch):
    """Numbers and windows in one transfer, the flips in another."""
    moved = []

    def count(values, device):
        moved.append(values.shape)
        return to_device(values, device)

    monkeypatch.setattr(in_memory_dataset, 'to_device', count)
    monkeypatch.setattr(batch_transforms, 'to_device', count)
    dataset = DATASETS.build(config(pipeline=PIPELINES['cifar']))
    dataset.__getitems__([2, 0])
    assert len(moved) == 2 and moved[0] == (3, 2)


def test_batch():
    dataset = DATASETS.build(config(pipeline=PIPELINES['cifar']))
    for indices in ([2, 0, 2], np.array([1]), torch.tensor([0, 1]), range(3)):
        batch = dataset.__getitems__(indices)
        assert batch['inputs'].shape == (len(indices), 3, 16, 16)
        assert type(batch['data_samples']) is BatchDataSample
        assert batch['data_samples'].fields['sample_idx'].tolist() == list(
            indices)


def test_attributes():
    dataset = DATASETS.build(config(pipeline=PIPELINES['cifar']))
    assert type(dataset) is InMemoryDataset
    # with the padding
    assert dataset.images.shape == (3, 24, 24, 3)
    assert dataset.images.dtype == torch.uint8
    assert dataset.labels.tolist() == dataset.get_gt_labels().tolist() == [
        5, 0, 3
    ]
    assert dataset.get_cat_ids(2) == [3]
    assert dataset.metainfo == dict(classes=tuple('abcdefg'))
    assert dataset.CLASSES == tuple('abcdefg')
    assert repr(dataset) == '3 images of 24x24, 0 MiB on cpu'


def test_settings_of_the_source():
    dataset = DATASETS.build(config(num=6, indices=[4, 1]))
    assert dataset.labels.tolist() == [1, 0]
    dataset = DATASETS.build(config(metainfo=dict(classes=tuple('xyz'))))
    assert dataset.metainfo['classes'] == ('x', 'y', 'z')


def test_class_beyond_the_names():
    dataset = DATASETS.build(
        config(num=6, metainfo=dict(classes=('x', 'y')), classes=[4, 1]))
    assert dataset.metainfo['classes'] == ('4', 'y')


@pytest.mark.parametrize('registry', [DATASETS, ROOT_DATASETS])
def test_config_stays_as_it_is(registry):
    cfg = Config(config(pipeline=PIPELINES['cifar']))
    given = cfg.to_dict()
    registry.build(cfg._cfg_dict)
    assert cfg.to_dict() == given


@DATASETS.register_module()
class OtherImages(MarkedImages):
    """Takes none of the settings that data sets have in common."""

    def __init__(self, pipeline):
        super().__init__(pipeline=pipeline)


def test_source_is_let_go():
    """The images are not held twice."""
    dataset = DATASETS.build(config('OtherImages', PIPELINES['cifar']))
    gc.collect()
    assert len(dataset) == 3
    assert not any(type(thing) is OtherImages for thing in gc.get_objects())


# Mistakes


@DATASETS.register_module()
class UnequalImages(MarkedImages):

    def load_data_list(self):
        infos = super().load_data_list()
        infos[-1]['img'] = infos[-1]['img'][:, :-1]
        return infos


@pytest.mark.parametrize('changes, words', [
    (dict(source='Digits'),
     "dataset.source 'Digits' is no registered dataset; did you mean "
     'mcod_plugin.Digits?'),
    (dict(source='CIFAR1000'),
     "dataset.source 'CIFAR1000' is no registered dataset; did you mean "
     'CIFAR100, CIFAR10?'),
    (dict(indcies=3),
     'dataset.indcies is no setting of MarkedImages; did you mean indices?'),
    (dict(max_gb=3),
     'dataset.max_gb is no setting of MarkedImages; did you mean max_gib?'),
    (dict(pipeline=[dict(CROP, paddng=4)]),
     'dataset.pipeline.0.paddng is no setting of RandomCrop; did you mean '
     'padding, padding_mode?'),
    (dict(pipeline=[dict(type='RandomCrp')]),
     "dataset.pipeline.0.type 'RandomCrp' is no registered transform; did"),
    (dict(pipeline=[CROP, dict(type='ColorJitter'), PACK]),
     'dataset: pipeline.1 of InMemoryDataset, ColorJitter, cannot stand '
     'there; allowed are, in this order, LoadImageFromFile, Resize, '
     'ResizeEdge, CenterCrop, RandomCrop, RandomFlip, PackInputs; for other '
     'transforms use the data set as it is (type=<source> and collate_fn '
     'default_collate)'),
    (dict(pipeline=[FLIP, CROP, PACK]),
     'dataset: pipeline.1 of InMemoryDataset, RandomCrop, cannot stand'),
    (dict(pipeline=[CROP, CROP, PACK]),
     'dataset: pipeline.1 of InMemoryDataset, RandomCrop, cannot stand'),
    (dict(pipeline=[CROP, dict(type='CenterCrop', crop_size=8), PACK]),
     'dataset: pipeline.1 of InMemoryDataset, CenterCrop, cannot stand'),
    (dict(pipeline=[PACK, FLIP]),
     'dataset: pipeline.1 of InMemoryDataset, RandomFlip, cannot stand'),
    (dict(pipeline=[dict(CROP, pad_if_needed=True)]),
     'dataset: pad_if_needed of RandomCrop is not supported'),
    (dict(pipeline=[dict(FLIP, direction=['vertical', 'diagonal'])]),
     'dataset: RandomFlip in an InMemoryDataset takes one prob and one '
     "direction; got 0.5 and ['vertical', 'diagonal']"),
    (dict(pipeline=[
        dict(FLIP, prob=[.5, .1], direction=['vertical', 'diagonal'])
    ]), "got [0.5, 0.1] and ['vertical', 'diagonal']"),
    (dict(pipeline=[dict(type='RandomCrop', crop_size=(16, 19), padding=1)]),
     'dataset: crop_size of RandomCrop is (16, 19), but the images of '
     'mcod_plugin.MarkedImages are (18, 18) with their padding'),
    (dict(source='mcod_plugin.UnequalImages'),
     'dataset: mcod_plugin.UnequalImages: image 2 is (16, 15, 3), the first '
     'one (16, 16, 3); InMemoryDataset needs images of '
     'one size, which Resize and CenterCrop in the pipeline can give'),
    *[(dict(dtype=dtype), 'dataset: mcod_plugin.MarkedImages: image 0 is of '
       f'{name}, but InMemoryDataset holds uint8, pixels from 0 to 255; '
       'convert the files, or take the data set as it is (type='
       "'mcod_plugin.MarkedImages')")
      for dtype, name in ((np.float32, 'float32'), (np.uint16, 'uint16'))],
    (dict(labels=[1, [2, 3]]),
     'dataset: mcod_plugin.MarkedImages: InMemoryDataset is for images of '
     'one label; image 1 has [2, 3]'),
    (dict(labels=['a']), "image 0 has 'a'"),
    (dict(num=0), 'dataset: mcod_plugin.MarkedImages is empty'),
    (dict(max_gib=1e-6),
     'dataset: mcod_plugin.MarkedImages takes 2.15e-06 GiB in memory, but '
     'max_gib of InMemoryDataset is 1e-06; raise it, take fewer or smaller '
     "images, or the data set as it is (type='mcod_plugin.MarkedImages')"),
    (dict(per_class=(3, 3)), 'dataset: per_class of InMemoryDataset must be '
     'two whole numbers (start, stop), 0 <= start < stop, of which stop may '
     'be None; got (3, 3)'),
    (dict(per_class=4), 'stop may be None; got 4'),
    (dict(per_class=(0, 1), indices=5), 'dataset: InMemoryDataset takes '
     'per_class or indices, not both; got (0, 1) and 5'),
    (dict(per_class=(0, 1)),
     'dataset: mcod_plugin.MarkedImages: per_class (0, 1) needs 1 images of '
     "each class, but there are 0 of class 'b'"),
    (dict(per_class=(1, 2), num=12),
     "needs 2 images of each class, but there are 1 of class 'c'"),
    (dict(per_class=(0, 1), labels=['a']), "image 0 has 'a'"),
    (dict(pr_class=(0, 1)), 'dataset.pr_class is no setting of MarkedImages; '
     'did you mean per_class'),
    (dict(views=True), 'dataset: views=True of InMemoryDataset takes the '
     'names of the branches from mcod_plugin.CohortRunner, for '
     'train_dataloader; elsewhere list them'),
    (dict(views='resnet'), 'dataset: views of InMemoryDataset must be True, '
     "False or a list of the names of all branches; got 'resnet'"),
    (dict(views=['a', 'a']), "of all branches; got ['a', 'a']"),
    (dict(views=[]), 'of all branches; got []'),
    (dict(views=['a'], test_mode=True), 'dataset: views of InMemoryDataset '
     'are for training, and it has test_mode=True'),
    (dict(max_gib=0), 'max_gib of InMemoryDataset must be a finite number '
     'greater than 0; got 0'),
    (dict(device='gpu'), 'device of InMemoryDataset must be one of auto, '
     "cpu, cuda; got 'gpu'"),
])
def test_mistakes(changes, words):
    cfg = Config(dict(dataset={**config(), **changes}))
    with pytest.raises(Exception) as info:
        DATASETS.build(cfg.dataset)
    message = str(explain(cfg, info.value))
    assert words in message and '\n' not in message


def test_damaged_image(tmp_path):
    path = tmp_path / 'a' / '0.png'
    mmcv.imwrite(MarkedImages(num=1)[0]['img'], str(path))
    path.write_bytes(path.read_bytes()[:50])
    cfg = config('', [dict(type='LoadImageFromFile'), PACK])
    cfg.update(source='CustomDataset', data_root=str(tmp_path))
    with pytest.raises(ConfigError) as info:
        DATASETS.build(cfg)
    message = str(info.value)
    assert message.startswith(
        f'CustomDataset: image 0, {path}, cannot be loaded: ')
    assert '\n' not in message


@DATASETS.register_module()
class HugeImages(MarkedImages):
    """Would take 335 GiB each."""

    def get_data_info(self, index):
        image = np.broadcast_to(np.uint8(0), (300_000, 400_000, 3))
        return dict(img=image, gt_label=0)


@pytest.mark.parametrize('changes, words', [
    (dict(num=3), 'takes 1.01e+03 GiB in memory, but max_gib of '
     'InMemoryDataset is 4; raise it, take fewer or smaller images'),
    (dict(num=1000, max_gib=1e9), 'are free; take fewer or smaller images, '
     "or the data set as it is (type='mcod_plugin.HugeImages')"),
])
def test_too_many_images(changes, words):
    with pytest.raises(ConfigError) as info:
        DATASETS.build(config('HugeImages', **changes))
    assert words in str(info.value) and '\n' not in str(info.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_no_gpu():
    assert DATASETS.build(dict(config(),
                               device='auto')).images.device.type == 'cpu'
    with pytest.raises(
            ConfigError,
            match='device of InMemoryDataset is cuda, but this machine has '
            'none; use auto or cpu'):
        DATASETS.build(dict(config(), device='cuda'))


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_gpu():
    cfg = config(pipeline=PIPELINES['cifar'])
    dataset, other = (
        DATASETS.build(dict(cfg, device=device)) for device in ('cuda', 'cpu'))
    for data in (dataset.images, dataset.labels):
        assert data.device.type == 'cuda'
    batches = []
    for data in (dataset, other):
        torch.manual_seed(0)
        batches.append(draw(data, 200)[0])
    assert torch.equal(batches[0]['inputs'].cpu(), batches[1]['inputs'])
    # Single images wait for the device no more than once.
    wanted = other.get_data_info(1)['img']
    dataset.get_data_info(0)
    torch.cuda.set_sync_debug_mode('error')
    try:
        found = dataset.get_data_info(1)['img']
    finally:
        torch.cuda.set_sync_debug_mode('default')
    np.testing.assert_array_equal(found, wanted)
    with pytest.raises(IndexError):
        dataset[3]


@pytest.mark.parametrize('kind, settings', [
    (CenterCrop, dict(crop_size=8)),
    (RandomCrop, dict(crop_size=8)),
    (RandomFlip, dict(prob=.5)),
    (PackInputs, {}),
])
def test_what_is_derived_from_a_transform_is_another(kind, settings):
    own = type('Own', (kind, ), {})(**settings)
    with pytest.raises(ConfigError, match='pipeline.0 of .*, Own, cannot'):
        in_memory_dataset.split_pipeline([own])


def test_images_in_memory_stay_in_order():
    """Also if a batch is all of them, as they lie."""
    dataset = DATASETS.build(config(pipeline=[dict(FLIP, prob=1.), PACK]))
    before = dataset.images.clone()
    dataset.__getitems__(range(3))['inputs'].zero_()
    assert torch.equal(dataset.images, before)
