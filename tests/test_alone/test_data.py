import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.dataset import Compose
from mmengine.evaluator import Evaluator
from mmpretrain.registry import TRANSFORMS
from PIL import Image

from mcod_plugin.alone.data import (crop_ratio, dataset_alone, evaluator,
                                    interpolation, loader_alone, preprocessor,
                                    source_loader)
from mcod_plugin.config.data import channel_order, pipeline_of
from mcod_plugin.datasets.in_memory_dataset import is_in_memory
from mcod_plugin.errors import ConfigError

FILES = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=256, edge='short'),
    dict(type='CenterCrop', crop_size=224),
    dict(type='PackInputs')
]
SAMPLER = dict(type='DefaultSampler', shuffle=False)


def memory(**changes):
    return dict(
        dict(
            type='mcod_plugin.InMemoryDataset',
            source='CIFAR10',
            device='cpu',
            max_gib=2,
            label='fine',
            classes=None,
            data_root='data',
            split='test',
            pipeline=[dict(type='PackInputs')]), **changes)


def test_source_loader():
    val, test = dict(batch_size=1), dict(batch_size=2)
    assert source_loader(dict(val_dataloader=val)) == val
    assert source_loader(dict(val_dataloader=val,
                              test_dataloader=test)) == test
    with pytest.raises(ConfigError, match='lacks test_dataloader'):
        source_loader(dict(train_dataloader=val))


def test_data_in_memory_become_those_of_mmpretrain():
    loader = ConfigDict(
        batch_size=500,
        num_workers=0,
        pin_memory=False,
        collate_fn=dict(type='mcod_plugin.batch_collate'),
        sampler=SAMPLER,
        dataset=memory())
    assert loader_alone(loader) == dict(
        batch_size=500,
        num_workers=0,
        persistent_workers=False,
        dataset=dict(
            type='CIFAR10',
            data_root='data',
            split='test',
            pipeline=[dict(type='PackInputs')]),
        sampler=SAMPLER,
        collate_fn=dict(type='default_collate'))
    # The config of the caller stays as it is.
    assert loader.dataset.type == 'mcod_plugin.InMemoryDataset'


@pytest.mark.parametrize('part', [
    dict(per_class=(0, 40)),
    dict(classes=['cat', 'dog']),
    dict(label='coarse'),
])
def test_part_of_a_data_set_stays_in_memory(part):
    dataset = memory(**part)
    loader = loader_alone(dict(dataset=dataset))
    assert loader['dataset'] == dataset
    # It gives whole batches, which MMPretrain's function cannot take.
    assert loader['collate_fn'] == dict(type='mcod_plugin.batch_collate')


def test_wrapped_data():
    loader = dict(
        dataset=dict(type='RepeatDataset', times=2, dataset=memory()))
    found = loader_alone(loader)['dataset']['dataset']
    assert found['type'] == 'CIFAR10'
    assert pipeline_of(loader) == [dict(type='PackInputs')]


def test_a_branch_alone_has_its_own_view():
    flip = dict(type='RandomFlip', prob=.5)
    views = dict(
        type='mcod_plugin.BranchViews',
        pipelines=dict(a=[FILES[2], FILES[3]], b=[flip, FILES[3]]))
    dataset = dict(type='CustomDataset', pipeline=[*FILES[:2], views])
    wrapped = dict(type='RepeatDataset', times=2, dataset=dataset)
    assert dataset_alone(dataset, branch='a')['pipeline'] == FILES
    found = dataset_alone(wrapped, (32, 48), branch='b')['dataset']
    assert found['pipeline'] == [
        *FILES[:2], flip,
        dict(type='Resize', scale=(48, 32), backend='pillow'), FILES[3]
    ]
    assert dataset['pipeline'][-1] is views
    # In memory a view is what all have otherwise.
    for part in ({}, dict(per_class=(0, 40))):
        assert dataset_alone(
            memory(views=True, **part), branch='a') == dataset_alone(
                memory(**part))


def test_resizing_comes_last():
    loader = dict(dataset=dict(type='CustomDataset', pipeline=FILES))
    found = loader_alone(loader, (32, 48))['dataset']['pipeline']
    assert found == [
        *FILES[:3],
        dict(type='Resize', scale=(48, 32), backend='pillow'), FILES[3]
    ]


@pytest.mark.parametrize('turned', [False, True])
@pytest.mark.parametrize('size', [(40, 27), (11, 16)])
@pytest.mark.parametrize('channels', [3, 1])
def test_exact_resizing(channels, size, turned):
    """Against Pillow, which antialiases and computes in floats if asked."""
    image = np.random.default_rng(0).integers(0, 256, (24, 32, channels),
                                              np.uint8)
    if turned:
        image = image[..., ::-1]
    wanted = [
        Image.fromarray(image[..., channel].astype(np.float32)).resize(
            size[::-1], Image.BILINEAR) for channel in range(channels)
    ]
    loader = dict(dataset=dict(type='CIFAR10', pipeline=[FILES[3]]))
    loader = loader_alone(loader, size, channels, exact=True)
    steps = Config(loader).dataset.pipeline
    run = Compose([TRANSFORMS.build(step) for step in steps])
    found = run(dict(img=image))['inputs'].numpy()
    np.testing.assert_allclose(found, np.stack(wanted), rtol=0, atol=1e-3)


def test_images_in_memory_are_not_resized_exactly():
    dataset = memory(per_class=(0, 40))
    wrapped = dict(type='RepeatDataset', times=2, dataset=dataset)
    assert is_in_memory(dataset) and is_in_memory(wrapped)
    assert not is_in_memory(loader_alone(dict(dataset=memory()))['dataset'])
    found = loader_alone(dict(dataset=dataset), (32, 48), exact=True)
    assert [step['type'] for step in found['dataset']['pipeline']
            ] == ['Resize', 'PackInputs']


def test_channel_order():
    assert channel_order(FILES) == 'BGR'
    assert channel_order([dict(type='mmpretrain.LoadImageFromFile')]) == 'BGR'
    assert channel_order(FILES[1:]) == 'RGB'
    assert channel_order([]) == 'RGB'


def test_crop_ratio():
    assert crop_ratio(FILES) == 224 / 256
    assert crop_ratio(FILES[2:]) == 1
    assert crop_ratio([]) == 1


def test_interpolation():
    assert interpolation([]) == interpolation(FILES) == 'bilinear'
    edge = dict(type='ResizeEdge', scale=256, interpolation='bicubic')
    resize = dict(type='mmcv.Resize', scale=(9, 9), interpolation='area')
    assert interpolation([edge, *FILES[2:]]) == 'bicubic'
    assert interpolation([edge, resize]) == 'box'


def test_preprocessor():
    given = ConfigDict(
        type='mcod_plugin.BatchDataPreprocessor',
        mean=[1, 2, 3],
        std=[4, 5, 6],
        to_rgb=True,
        to_onehot=True,
        batch_augments=dict(augments=[dict(type='Mixup', alpha=1.)]))
    assert preprocessor(given, (1., 2., 3.), (4., 5., 6.), 7) == dict(
        type='mmpretrain.ClsDataPreprocessor',
        mean=[1, 2, 3],
        std=[4, 5, 6],
        to_rgb=True,
        num_classes=7)
    assert preprocessor({}, None, None, 7) == dict(
        type='mmpretrain.ClsDataPreprocessor', num_classes=7)
    # To be trained, it mixes images as in the cohort.
    assert preprocessor(
        given, None, None, 7, training=True) == dict(
            given, type='mmpretrain.ClsDataPreprocessor', num_classes=7)
    own = preprocessor(dict(type='Own', size=3), None, None, 7)
    assert own == dict(type='Own', size=3, num_classes=7)


@pytest.mark.parametrize(
    'given, expected',
    [
        (dict(type='mcod_plugin.BranchMetrics',
              topk=(1, 5)), dict(type='Accuracy', topk=(1, 5))),
        ([
            dict(type='mcod_plugin.BranchMetrics', topk=5),
            dict(type='SingleLabelMetric')
        ],
         [dict(type='Accuracy', topk=(1, 5)),
          dict(type='SingleLabelMetric')]),
        ([
            dict(type='mcod_plugin.BranchMetrics', topk=(1, 3)),
            dict(type='mmpretrain.Accuracy', topk=5)
        ], dict(type='mmpretrain.Accuracy', topk=(1, 3, 5))),
        ([
            dict(type='SingleLabelMetric'),
            dict(type='mcod_plugin.BranchMetrics'),
            dict(type='Accuracy')
        ], [dict(type='SingleLabelMetric'),
            dict(type='Accuracy', topk=(1, ))]),
        (dict(type='Accuracy', topk=(1, )), dict(type='Accuracy', topk=(1, ))),
        (None, dict(type='Accuracy', topk=(1, ))),
        # What is evaluated by branch.
        (dict(
            type='mcod_plugin.BranchMetrics',
            topk=None,
            metric=dict(type='SingleLabelMetric')),
         [dict(type='Accuracy', topk=(1, )),
          dict(type='SingleLabelMetric')]),
        (dict(
            type='mcod_plugin.BranchMetrics',
            metric=[dict(type='Accuracy', topk=5)
                    ]), dict(type='Accuracy', topk=(1, 5))),
        (dict(
            type='Evaluator',
            metrics=[dict(type='mcod_plugin.M', topk=(1, 3))]),
         dict(type='Accuracy', topk=(1, 3))),
    ])
def test_evaluator(given, expected):
    found = evaluator(given, 10)
    assert found == expected
    # MMEngine refuses two metrics of one name.
    run = Evaluator(found)
    run.process(
        [dict(pred_score=torch.arange(10.), gt_label=torch.tensor([9]))])
    assert run.evaluate(1)['accuracy/top1'] == 100


def test_no_more_ranks_than_classes():
    given = Config(dict(metric=dict(type='mcod_plugin.M', topk=(1, 5)))).metric
    assert evaluator(given, 3) == dict(type='Accuracy', topk=(1, ))


def test_evaluator_of_several_labels():
    given = dict(
        type='mcod_plugin.BranchMetrics', metric=dict(type='MultiLabelMetric'))
    assert evaluator(given, 3, True) == dict(type='MultiLabelMetric')
    given.pop('metric')
    assert evaluator(given, 3, True) == dict(type='AveragePrecision')
