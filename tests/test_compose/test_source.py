import pytest
from mmengine.config import Config

from mcod_plugin.compose.source import Source, call_text


def make(**cfg):
    return Source('a', 'a.py', Config(cfg))


def loader(**dataset):
    return dict(batch_size=4, dataset=dataset)


def test_what_a_config_says(sources):
    first, _ = sources()
    assert first.dataset_type == 'Digits'
    assert first.classes == tuple('0123456789')
    assert first.input_size == (16, 16)
    assert first.statistics == ([78.] * 3, [96.] * 3)
    assert (first.lr, first.weight_decay) == (0.1, 1e-3)
    assert (first.batch_size, first.total_batch) == (16, 64)
    assert first.facts() == {
        'data set': 'Digits',
        'input size': '16x16',
        'normalisation': 'mean 78, std 96, RGB',
        'training images': 'RandomCrop, PackInputs',
        'batch augmentations': '',
        'optimizer': 'SGD(momentum=0.9)',
        'learning rate': '0.1',
        'weight decay': '0.001',
        'paramwise_cfg': '',
        'clip_grad': '',
        'schedule': 'MultiStepLR(milestones=[2], gamma=0.1)',
        'epochs': '2',
        'iterations': '',
        'batch size': '16 per process, 64 in all',
        'pre-trained weights': '',
        'custom hooks': ''
    }


def test_a_config_that_says_nothing():
    source = make()
    assert source.classes is source.input_size is source.lr is None
    facts = source.facts()
    assert facts.pop('normalisation') == 'mean 0, std 1, RGB'
    assert set(facts.values()) == {''}


def test_mean_without_standard_deviation():
    """The preprocessor normalises nothing then."""
    source = make(data_preprocessor=dict(mean=[1., 2., 3.]))
    assert source.statistics == ([0.] * 3, [1.] * 3)


@pytest.mark.parametrize('loads', [True, False])
@pytest.mark.parametrize('to_rgb', [True, False])
def test_channel_order(loads, to_rgb):
    """Files are read as BGR; to_rgb turns the channels round."""
    pipeline = [dict(type='LoadImageFromFile')] if loads else []
    source = make(
        train_dataloader=loader(type='CustomDataset', pipeline=pipeline),
        data_preprocessor=dict(to_rgb=to_rgb))
    stored = 'BGR' if loads else 'RGB'
    assert source.channel_order == (stored[::-1] if to_rgb else stored)


def test_preprocessor_and_augmentations_within_the_model():
    source = make(
        model=dict(
            data_preprocessor=dict(mean=[1, 2, 3], std=[4, 5, 6]),
            train_cfg=dict(augments=dict(type='Mixup', alpha=0.2))),
        data_preprocessor=dict(mean=[0] * 3))
    assert source.statistics == ([1, 2, 3], [4, 5, 6])
    facts = source.facts()
    assert facts['normalisation'] == 'mean 1 2 3, std 4 5 6, RGB'
    assert facts['batch augmentations'] == 'Mixup(alpha=0.2)'
    # Of two the preprocessor's are used.
    source.model['data_preprocessor']['batch_augments'] = dict(
        augments=dict(type='CutMix', alpha=1.))
    assert source.facts()['batch augmentations'] == 'CutMix(alpha=1)'


def test_data_set_in_wrappers():
    inner = dict(
        type='CIFAR10',
        pipeline=[
            dict(type='Resize', scale=(40, 24)),
            dict(type='PackInputs')
        ])
    source = make(
        train_dataloader=loader(
            type='RepeatDataset',
            dataset=dict(type='ConcatDataset', datasets=[inner])))
    assert source.dataset_type == 'CIFAR10'
    assert source.classes[:2] == ('airplane', 'automobile')
    # Resize has the width first.
    assert source.input_size == (24, 40)
    named = make(train_dataloader=loader(type='Hub', dataset='digits'))
    assert named.dataset_type == 'Hub'


def test_names_of_classes():
    own = loader(type='CustomDataset', metainfo=dict(classes=['a', 'b']))
    assert make(train_dataloader=own).classes == ('a', 'b')
    own = loader(type='CustomDataset', classes=('c', ))
    assert make(train_dataloader=own).classes == ('c', )
    # Those in a file or a folder are known when that is read.
    for own in (dict(classes='names.txt'), {}):
        own = loader(type='CustomDataset', **own)
        assert make(train_dataloader=own).classes is None
    held = loader(type='mcod_plugin.InMemoryDataset', source='CIFAR100')
    assert len(make(train_dataloader=held).classes) == 100
    held['dataset'].update(classes=['train', 'apple'])
    assert make(train_dataloader=held).classes == ('train', 'apple')
    # These are known when the data are read.
    for changes in (dict(classes=[3, 5]), dict(classes=None, label='coarse')):
        held['dataset'].update(changes)
        assert make(train_dataloader=held).classes is None
    assert make(train_dataloader=held).dataset_type == 'CIFAR100'


def test_checkpoints():
    source = make(
        load_from='d.pth',
        model=dict(
            init_cfg=[
                dict(type='Kaiming'),
                dict(type='Pretrained', checkpoint='a.pth')
            ],
            backbone=dict(
                type='TIMMBackbone', model_name='vgg', pretrained=True),
            head=dict(pretrained=False),
            pretrained='c.pth'))
    assert set(source.weights) == {'a.pth', 'vgg', 'c.pth', 'd.pth'}


def test_texts():
    assert call_text(dict(type='A', b=1e-3, _scope_='x')) == 'A(b=0.001)'
    assert call_text(dict(type='x.A', b=1, c='d'), ('b', )) == 'A(c=d)'
    assert call_text(dict(type='A')) == 'A' and call_text({}) == ''
