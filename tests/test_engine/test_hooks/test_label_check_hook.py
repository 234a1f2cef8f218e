import logging

import numpy as np
import pytest
from mmengine.dataset import ConcatDataset, RepeatDataset

from mcod_plugin.datasets import Digits
from mcod_plugin.engine.hooks import label_check_hook
from mcod_plugin.engine.hooks.label_check_hook import label_bounds
from mcod_plugin.errors import ConfigError


def heads(num_classes):
    return {
        f'model.branches.{name}.head.num_classes': num_classes
        for name in ('resnet', 'vit')
    }


def test_labels_without_a_class(tiny_runner, tmp_path):
    runner = tiny_runner(**heads(4))
    match = ('train_dataloader.dataset has labels from 0 to 9, but '
             'num_classes of the branches is 4')
    with pytest.raises(ConfigError, match=match):
        runner.train()
    assert not list(tmp_path.rglob('*.pth'))


def test_validation_and_test_data(tiny_runner):
    labels = Digits().get_gt_labels()
    small = np.flatnonzero(labels < 4)[:16].tolist()
    few = {'train_dataloader.dataset.indices': small, **heads(4)}
    with pytest.raises(ConfigError, match='val_dataloader.dataset has'):
        tiny_runner('a', **few).train()
    with pytest.raises(ConfigError, match='test_dataloader.dataset has'):
        tiny_runner('b', **few).test()


def test_good_labels_pass(tiny_runner):
    tiny_runner(epochs=1).train()


def named(loader, names):
    return {f'{loader}_dataloader.dataset.metainfo': dict(classes=names)}


SWAPPED = tuple('0132456789')
SWAP = (r'in the same order, because labels are their numbers; of 10 it has '
        r'them in another order \(label 2 is 3, not 2, 3 is 2, not 3\)')


@pytest.mark.parametrize('in_memory', [True, False])
def test_validation_data_of_another_order(tiny_runner, tmp_path, in_memory):
    runner = tiny_runner(in_memory=in_memory, **named('val', SWAPPED))
    with pytest.raises(
            ConfigError,
            match='val_dataloader.dataset must have the classes of '
            r'train_dataloader.dataset \(10\) ' + SWAP):
        runner.train()
    assert not list(tmp_path.rglob('*.pth'))


def test_test_data_after_training(tiny_runner):
    runner = tiny_runner(epochs=1, **named('test', SWAPPED))
    runner.train()
    with pytest.raises(
            ConfigError, match='test_dataloader.dataset must have the classes '
            'of train_dataloader.dataset'):
        runner.test()


def test_classes_of_the_checkpoint(tiny_runner, tmp_path):
    """Refused are a run that goes on and one that only evaluates; weights to
    start from may have learned anything."""
    tiny_runner('first', epochs=1).train()
    checkpoint = str(tmp_path / 'first' / 'epoch_1.pth')
    both = {**named('train', SWAPPED), **named('val', SWAPPED)}
    other = dict(both, load_from=checkpoint)
    for name, how in (('val', both), ('test', named('test', SWAPPED))):
        runner = tiny_runner(name, **how, load_from=checkpoint)
        match = f'{name}_dataloader.dataset must have the classes of the ' \
            r'checkpoint \(10\) ' + SWAP
        with pytest.raises(ConfigError, match=match):
            getattr(runner, name)()
    runner = tiny_runner('resumed', resume=True, **other)
    match = ('train_dataloader.dataset must have the classes of the '
             r'checkpoint \(10\) ' + SWAP)
    with pytest.raises(ConfigError, match=match):
        runner.train()
    assert not list((tmp_path / 'resumed').rglob('*.pth'))


def test_weights_to_start_from_may_know_other_classes(tiny_runner, tmp_path):
    tiny_runner('first', epochs=1).train()
    checkpoint = str(tmp_path / 'first' / 'epoch_1.pth')
    both = {**named('train', SWAPPED), **named('val', SWAPPED)}
    runner = tiny_runner('other', epochs=1, load_from=checkpoint, **both)
    told = warnings_of(runner)
    runner.train()
    (line, ) = (line for line in told if 'start from' in line)
    assert line == (
        'The weights to start from were trained on other classes (10): '
        'train_dataloader.dataset (10) has them in another order (label 2 is '
        '3, not 2, 3 is 2, not 3).')
    # The same classes are nothing to speak of, and neither are none.
    runner = tiny_runner('same', epochs=1, load_from=checkpoint)
    told = warnings_of(runner)
    runner.train()
    assert not [line for line in told if 'classes' in line]


def warnings_of(runner):
    lines = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: lines.append(record.getMessage())
    runner.logger.addHandler(handler)
    return lines


def test_more_classes_than_the_data(tiny_runner):
    runner = tiny_runner(epochs=1, **heads(12))
    told = warnings_of(runner)
    runner.train()
    assert [line for line in told if 'classes' in line] == [
        'train_dataloader.dataset has 10 classes, but num_classes of the '
        'branches is 12.'
    ]


class Labels:

    def __init__(self, labels, classes=None):
        self.labels = labels
        self.metainfo = dict(classes=classes)

    def __len__(self):
        return len(self.labels)

    def get_gt_labels(self):
        return np.array(self.labels)


class Wrapper:

    def __init__(self, **parts):
        vars(self).update(parts)


@pytest.mark.parametrize('dataset, bounds', [
    (Labels([3, -1, 7]), (-1, 7)),
    (Labels([0.5, 1.5]), None),
    (Labels([[0, 1], [1, 0]]), None),
    (Labels([]), None),
    (Wrapper(dataset=Labels([2, 5])), (2, 5)),
    (Wrapper(datasets=[Labels([2, 5]), Labels([1]),
                       object()]), (1, 5)),
    (object(), None),
])
def test_label_bounds(dataset, bounds):
    assert label_bounds(dataset) == bounds


def test_label_bounds_of_the_toolbox_wrappers():
    labels = Digits().get_gt_labels()
    twos, fives = (np.flatnonzero(labels == label)[:3].tolist()
                   for label in (2, 5))
    one, other = Digits(indices=twos), Digits(indices=fives)
    assert label_bounds(one) == label_bounds(RepeatDataset(one, 2)) == (2, 2)
    assert label_bounds(ConcatDataset([one, other])) == (2, 5)


def test_large_data_count_by_their_classes(monkeypatch):
    monkeypatch.setattr(label_check_hook, 'MAX_SAMPLES', 2)
    assert label_bounds(Labels([0, 1, 99], 'abc')) == (0, 2)
    assert label_bounds(Labels([0, 1, 99])) is None
