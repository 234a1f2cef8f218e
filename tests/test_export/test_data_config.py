import pytest
from mmengine.config import Config, ConfigDict

from mcod_plugin.errors import ConfigError
from mcod_plugin.export.data_config import (channel_order, crop_ratio,
                                            evaluator, pipeline_of,
                                            preprocessor, source_loader,
                                            toolbox_loader)

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


def test_data_in_memory_become_the_toolboxs():
    loader = ConfigDict(
        batch_size=500,
        num_workers=0,
        pin_memory=False,
        collate_fn=dict(type='mcod_plugin.batch_collate'),
        sampler=SAMPLER,
        dataset=memory())
    assert toolbox_loader(loader) == dict(
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


def test_part_of_a_data_set_stays_in_memory():
    dataset = memory(per_class=(0, 40))
    assert toolbox_loader(dict(dataset=dataset))['dataset'] == dataset


def test_wrapped_data():
    loader = dict(
        dataset=dict(type='RepeatDataset', times=2, dataset=memory()))
    found = toolbox_loader(loader)['dataset']['dataset']
    assert found['type'] == 'CIFAR10'
    assert pipeline_of(loader) == [dict(type='PackInputs')]


@pytest.mark.parametrize('channels, more', [(3, dict(backend='pillow')),
                                            (1, {})])
def test_resizing_comes_last(channels, more):
    loader = dict(dataset=dict(type='CustomDataset', pipeline=FILES))
    found = toolbox_loader(loader, (32, 48), channels)['dataset']['pipeline']
    assert found == [
        *FILES[:3],
        dict(type='Resize', scale=(48, 32), **more), FILES[3]
    ]


def test_channel_order():
    assert channel_order(FILES) == 'BGR'
    assert channel_order([dict(type='mmpretrain.LoadImageFromFile')]) == 'BGR'
    assert channel_order(FILES[1:]) == 'RGB'


def test_crop_ratio():
    assert crop_ratio(FILES) == 224 / 256
    assert crop_ratio(FILES[2:]) == 1
    assert crop_ratio([]) == 1


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
    own = preprocessor(dict(type='Own', size=3), None, None, 7)
    assert own == dict(type='Own', size=3, num_classes=7)


@pytest.mark.parametrize('given, expected', [
    (dict(type='mcod_plugin.BranchMetrics',
          topk=(1, 5)), dict(type='Accuracy', topk=(1, 5))),
    ([
        dict(type='mcod_plugin.BranchMetrics', topk=5),
        dict(type='SingleLabelMetric')
    ], [dict(type='Accuracy', topk=(5, )),
        dict(type='SingleLabelMetric')]),
    (dict(type='Accuracy', topk=(1, )), dict(type='Accuracy', topk=(1, ))),
    (None, dict(type='Accuracy', topk=(1, ))),
])
def test_evaluator(given, expected):
    assert evaluator(given, 10) == expected


def test_no_more_ranks_than_classes():
    given = Config(dict(metric=dict(type='mcod_plugin.M', topk=(1, 5)))).metric
    assert evaluator(given, 3) == dict(type='Accuracy', topk=(1, ))
