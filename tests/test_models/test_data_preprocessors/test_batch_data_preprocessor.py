import copy
import random

import numpy as np
import pytest
import torch
from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS
from mmpretrain.structures import DataSample

from mcod_plugin.errors import ConfigError
from mcod_plugin.models.data_preprocessors import BatchDataPreprocessor
from mcod_plugin.registry import MODELS
from mcod_plugin.structures import BatchDataSample

LABELS = [3, 1, 4, 1, 0, 2]
MEAN, STD = [129.304, 124.070, 112.434], [68.170, 65.392, 70.418]
SETTINGS = dict(
    statistics=dict(mean=MEAN, std=STD),
    rgb=dict(mean=MEAN, std=STD, to_rgb=True),
    rgb_alone=dict(to_rgb=True),
    integers=dict(mean=[128, 127, 126], std=[64, 63, 62]),
    single=dict(mean=[120.5], std=[60.25]),
    nothing=dict(),
    padding=dict(mean=MEAN, std=STD, pad_size_divisor=8, pad_value=1.5),
    padding_alone=dict(pad_size_divisor=5, to_rgb=True))
AUGMENTS = [
    dict(augments=dict(type='Mixup', alpha=.8)),
    dict(augments=[dict(type='CutMix', alpha=1.)]),
    dict(augments=[dict(type='CutMix', alpha=1., cutmix_minmax=[.2, .6])]),
    dict(
        augments=[
            dict(type='Mixup', alpha=.8),
            dict(type='CutMix', alpha=1.),
            dict(type='ResizeMix', alpha=1.)
        ],
        probs=[.3, .3, .3])
]


def pair(**settings):
    """Our preprocessor and the toolbox's."""
    return (MODELS.build(
        dict(
            type='mcod_plugin.BatchDataPreprocessor',
            **copy.deepcopy(settings))),
            MMPRETRAIN_MODELS.build(
                dict(type='ClsDataPreprocessor', **copy.deepcopy(settings))))


def make_images(channels=3,
                size=(12, 9),
                dtype=torch.uint8,
                layout=torch.channels_last):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(
        0, 256, (len(LABELS), channels, *size), generator=generator)
    return images.to(dtype).contiguous(memory_format=layout)


def make_fields(**fields):
    return dict(
        gt_label=torch.tensor(LABELS),
        sample_idx=torch.arange(len(LABELS)),
        **fields)


def check(preprocessors, images, training=False, fields=None, seed=0):
    """Images and annotations are the toolbox's, bit for bit."""
    own, toolbox = preprocessors
    fields = fields or make_fields()
    given = images.clone()
    results = []
    for preprocessor in (own, toolbox):
        samples = BatchDataSample(**fields)
        if preprocessor is toolbox:
            samples = list(samples)
        torch.manual_seed(seed)
        np.random.seed(seed)
        results.append(
            preprocessor(
                dict(inputs=images.clone(), data_samples=samples), training))
    assert torch.equal(images, given)
    result, expected = results
    assert result['inputs'].dtype == expected['inputs'].dtype
    assert torch.equal(result['inputs'], expected['inputs'])
    batch, samples = result['data_samples'], expected['data_samples']
    assert type(batch) is BatchDataSample and not batch.touched
    assert len(batch) == len(samples)
    for sample, other in zip(batch, samples):
        assert set(sample.all_keys()) == set(other.all_keys())
        for key, value in other.all_items():
            if isinstance(value, torch.Tensor):
                assert sample.get(key).dtype == value.dtype
                assert torch.equal(sample.get(key), value)
            else:
                assert sample.get(key) == value
    return result


@pytest.mark.parametrize('settings', SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize('layout',
                         [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize('dtype', [torch.uint8, torch.float32])
def test_images(settings, layout, dtype):
    result = check(pair(**settings), make_images(dtype=dtype, layout=layout))
    assert result['inputs'].dtype == torch.float32
    if dtype == torch.uint8:
        layout = torch.channels_last
    assert result['inputs'].is_contiguous(memory_format=layout)


@pytest.mark.parametrize(
    'settings',
    [
        dict(mean=[33.4], std=[78.6]),
        dict(mean=[33.4], std=[78.6], to_rgb=True, pad_size_divisor=8),
        dict(),
        # It makes three channels of one.
        dict(mean=MEAN, std=STD),
    ])
def test_grey_images(settings):
    check(pair(**settings), make_images(1))


def test_four_channels():
    check(
        pair(mean=[1., 2, 3, 4], std=[5., 6, 7, 8], to_rgb=True),
        make_images(4))


def test_sizes_and_precisions_one_after_the_other():
    """Nothing that is kept from one batch is used for another."""
    preprocessors = pair(mean=[100.], std=[50.])
    for channels, size in ((3, (4, 4)), (1, (4, 12)), (3, (4, 4)), (3, (2, 8)),
                           (3, (4, 5))):
        check(preprocessors, make_images(channels, size))
    for preprocessor in preprocessors:
        preprocessor.double()
    result = check(preprocessors, make_images(3, (4, 5)))
    assert result['inputs'].dtype == torch.double


def test_images_of_the_caller_stay():
    """Also if nothing is to be done with them."""
    own, _ = pair(mean=MEAN, std=STD)
    images = make_images(dtype=torch.float32)
    given = images.clone()
    own(dict(inputs=images, data_samples=BatchDataSample(**make_fields())))
    assert torch.equal(images, given)


@pytest.mark.parametrize('training', [False, True])
def test_one_hot(training):
    result = check(
        pair(to_onehot=True, num_classes=5, mean=MEAN, std=STD), make_images(),
        training)
    scores = result['data_samples'].fields['gt_score']
    assert scores.argmax(1).tolist() == LABELS and (scores.sum(1) == 1).all()


@pytest.mark.parametrize('layout',
                         [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize('settings', [{}, SETTINGS['padding']])
@pytest.mark.parametrize('augments', AUGMENTS)
def test_batch_augments(augments, settings, layout):
    settings = dict(settings, batch_augments=augments, num_classes=5)
    images = make_images(layout=layout)
    plain = check(pair(**settings), images)
    are_mixed = set()
    for seed in range(6):
        mixed = check(pair(**settings), images, training=True, seed=seed)
        fields = mixed['data_samples'].fields
        assert fields['gt_label'].tolist() == LABELS
        are_mixed.add((not torch.equal(mixed['inputs'], plain['inputs']),
                       bool((fields['gt_score'] > 0).sum() > len(LABELS))))
    assert (True, True) in are_mixed


def test_nothing_is_drawn():
    """The rest of the probability, to which the scores are floats as well."""
    augments = dict(augments=[dict(type='Mixup', alpha=.8)], probs=[0.])
    check(
        pair(batch_augments=augments, num_classes=5),
        make_images(),
        training=True)


@pytest.mark.parametrize('settings', [
    dict(),
    dict(to_onehot=True, num_classes=5),
    dict(batch_augments=AUGMENTS[0], num_classes=5)
])
def test_scores_that_are_given(settings):
    scores = torch.rand(len(LABELS), 5).softmax(1)
    check(
        pair(**settings),
        make_images(),
        training=True,
        fields=make_fields(gt_score=scores))


@pytest.mark.parametrize('settings', [
    dict(),
    dict(to_onehot=True, num_classes=5),
    dict(batch_augments=AUGMENTS[0], num_classes=5)
])
def test_without_labels(settings):
    check(
        pair(**settings),
        make_images(),
        training=True,
        fields=dict(sample_idx=torch.arange(len(LABELS))))


def test_given_fields_stay():
    own, _ = pair(batch_augments=AUGMENTS[0], num_classes=5)
    samples = BatchDataSample(**make_fields())
    result = own(
        dict(inputs=make_images(), data_samples=samples), training=True)
    assert result['data_samples'] is not samples
    assert list(samples.fields) == ['gt_label', 'sample_idx']


# Other batches are the toolbox's business


@pytest.mark.parametrize('augments', [None, AUGMENTS[0]])
def test_touched(augments):
    """Changes that were made to the samples count."""
    settings = dict(mean=MEAN, std=STD, num_classes=5, to_onehot=True)
    own, toolbox = pair(batch_augments=augments, **settings)
    results = []
    for preprocessor in (own, toolbox):
        samples = BatchDataSample(**make_fields())
        samples[2].set_gt_label(0)
        if preprocessor is toolbox:
            samples = list(samples)
        torch.manual_seed(1)
        np.random.seed(1)
        results.append(
            preprocessor(
                dict(inputs=make_images(), data_samples=samples), True))
    one, other = results
    assert torch.equal(one['inputs'], other['inputs'])
    assert one['data_samples'].touched
    for sample, expected in zip(one['data_samples'], other['data_samples']):
        assert torch.equal(sample.gt_label, expected.gt_label)
        assert torch.equal(sample.gt_score, expected.gt_score)
    assert one['data_samples'][2].gt_label.tolist() == [0]


@pytest.mark.parametrize('as_list', [False, True])
@pytest.mark.parametrize('labelled', [False, True])
def test_lists(as_list, labelled):
    results = []
    for preprocessor in pair(mean=MEAN, std=STD, pad_size_divisor=8):
        images = make_images()
        data = dict(inputs=list(images) if as_list else images)
        if labelled:
            data['data_samples'] = [
                DataSample().set_gt_label(label) for label in LABELS
            ]
        results.append(preprocessor(data))
        if labelled:
            assert results[-1]['data_samples'] is data['data_samples']
        else:
            assert results[-1]['data_samples'] is None
    assert torch.equal(*(result['inputs'] for result in results))


def test_images_of_a_list_with_a_batch_of_labels():
    own, _ = pair(mean=MEAN, std=STD)
    samples = BatchDataSample(**make_fields())
    images = make_images()
    one, other = (
        own(dict(inputs=inputs, data_samples=samples))['inputs']
        for inputs in (images, list(images)))
    assert torch.equal(one, other)


def test_state():
    """Whatever is kept is no part of a checkpoint, and can be copied."""
    preprocessors = pair(mean=MEAN, std=STD)
    own, _ = preprocessors
    check(preprocessors, make_images())
    assert not own.state_dict()
    check((copy.deepcopy(own), preprocessors[1]), make_images())


# Views of their own for branches


def make_views(sizes=((12, 9), ) * 3):
    """Views that differ, of the same images."""
    return {
        name: make_images(size=size).roll(place, 3)
        for place, (name, size) in enumerate(zip('bac', sizes))
    }


def samples_of(kind):
    """The annotations of a batch as each kind of data gives them."""
    batch = BatchDataSample(**make_fields())
    if kind == 'touched':
        batch[0]
    return list(batch) if kind == 'list' else batch


def rows(samples, key):
    fields = None if isinstance(samples, list) else samples.fields
    if fields is None or samples.touched:
        return torch.stack([sample.get(key) for sample in samples])
    return fields[key]


KINDS = ['batch', 'list', 'touched']


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('as_list', [False, True])
@pytest.mark.parametrize('settings', SETTINGS.values(), ids=SETTINGS)
def test_views_are_normalised(settings, as_list, kind):
    own, toolbox = pair(**settings)
    views = make_views([(12, 9), (12, 9), (5, 4)])
    given = {
        name: list(images) if as_list else images
        for name, images in views.items()
    }
    found = own(dict(inputs=given, data_samples=samples_of(kind)), True)
    assert list(found['inputs']) == list(views)
    for name, images in views.items():
        expected = toolbox(
            dict(inputs=list(images) if as_list else images))['inputs']
        assert torch.equal(found['inputs'][name], expected)
    assert rows(found['data_samples'], 'gt_label').flatten().tolist() == LABELS


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('augments', AUGMENTS)
def test_views_are_mixed_alike(augments, kind):
    """Each is what the toolbox makes of it alone, by the same numbers."""
    own, toolbox = pair(
        mean=MEAN, std=STD, num_classes=5, batch_augments=augments)
    views = make_views()
    for seed in range(4):
        torch.manual_seed(seed)
        np.random.seed(seed)
        found = own(
            dict(
                inputs={name: images.clone()
                        for name, images in views.items()},
                data_samples=samples_of(kind)), True)
        following = torch.rand(1), np.random.rand()
        scores = rows(found['data_samples'], 'gt_score')
        for name, images in views.items():
            torch.manual_seed(seed)
            np.random.seed(seed)
            expected = toolbox(
                dict(inputs=images.clone(), data_samples=samples_of('list')),
                True)
            assert torch.equal(found['inputs'][name], expected['inputs'])
            assert torch.equal(scores, rows(expected['data_samples'],
                                            'gt_score'))
            # No more was drawn than for one tensor of images.
            assert following == (torch.rand(1), np.random.rand())


class WritesAndDraws:
    """Draws from every generator, and writes into all that it is given."""

    def __call__(self, images, scores):
        numbers = random.random(), np.random.rand(), torch.rand(()).item()
        images *= 0
        images += sum(numbers)
        scores[:] = scores + 1
        return images, scores


def test_views_that_any_augmentation_mixes():
    own, _ = pair(
        num_classes=5, batch_augments=dict(augments=WritesAndDraws()))
    found = own(
        dict(inputs=make_views(), data_samples=samples_of('batch')), True)
    first, *others = found['inputs'].values()
    assert first.unique().numel() == 1
    assert all(torch.equal(first, other) for other in others)
    scores = found['data_samples'].fields['gt_score']
    assert scores.unique().tolist() == [1, 2]


def test_a_view_that_branches_share_is_mixed_once():
    """It may be the tensor of the caller."""
    own, toolbox = pair(num_classes=5, batch_augments=AUGMENTS[1])
    images = make_images(dtype=torch.float32)
    for preprocessor, inputs in ((own, dict(a=images, b=images)),
                                 (toolbox, images.clone())):
        torch.manual_seed(3)
        np.random.seed(3)
        found = preprocessor(
            dict(inputs=inputs, data_samples=samples_of('list')),
            True)['inputs']
        if preprocessor is own:
            views = found
    assert views['a'] is views['b']
    assert torch.equal(views['a'], found)


def test_views_of_several_sizes_are_mixed_by_mixup_alone():
    views = make_views([(12, 9), (12, 9), (5, 4)])
    data = dict(inputs=views, data_samples=samples_of('batch'))
    own, _ = pair(num_classes=5, batch_augments=dict(
        augments=[dict(type='Mixup', alpha=.8)], probs=[.9]))
    torch.manual_seed(0)
    np.random.seed(0)
    found = own(data, True)
    ratio = found['data_samples'].fields['gt_score'].amax()
    assert .5 < ratio < 1 and found['inputs']['c'].shape[2:] == (5, 4)
    own, _ = pair(num_classes=5, batch_augments=AUGMENTS[3])
    with pytest.raises(ConfigError) as info:
        own(data, True)
    assert str(info.value) == (
        'train_cfg.augments other than Mixup need views of one size for all '
        'branches; got (5, 4), (12, 9); input_size of a branch resizes what '
        'was mixed')


def test_views_without_labels():
    own, _ = pair(num_classes=5, batch_augments=AUGMENTS[0])
    for samples in (None, BatchDataSample(sample_idx=torch.arange(6))):
        found = own(dict(inputs=make_views(), data_samples=samples), True)
        assert torch.equal(found['inputs']['b'], make_views()['b'].float())


@pytest.mark.parametrize('kind', KINDS)
def test_views_are_for_training(kind):
    own, _ = pair(mean=MEAN, std=STD)
    with pytest.raises(ConfigError) as info:
        own(dict(inputs=make_views(), data_samples=samples_of(kind)))
    assert str(info.value) == (
        'inputs by branch are for training; validation and test take one '
        'tensor of images (N, C, H, W) for all branches')


def test_statistics_of_each_size_stay():
    """A recorded step goes on reading those of its images."""
    preprocessor = BatchDataPreprocessor(mean=[1.] * 3, std=[2.] * 3)
    small, large = (
        dict(
            inputs=torch.zeros(2, 3, size, size, dtype=torch.uint8),
            data_samples=BatchDataSample(gt_label=torch.tensor([0, 1])))
        for size in (4, 6))
    preprocessor.forward(small)
    before = [*preprocessor._statistics.values()][0]
    preprocessor.forward(large)
    preprocessor.forward(small)
    assert len(preprocessor._statistics) == 2
    assert [*preprocessor._statistics.values()][0] is before
