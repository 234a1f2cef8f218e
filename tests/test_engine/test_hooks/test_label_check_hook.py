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
