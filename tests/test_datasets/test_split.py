from collections import Counter

import numpy as np
import pytest

from mcod_plugin.datasets.split import check_per_class, select_per_class
from mcod_plugin.errors import ConfigError


def by_counting(labels, start, stop):
    """Go through the images, and count those of each class."""
    seen, chosen = Counter(), []
    for index, label in enumerate(labels):
        if start <= seen[label] and (stop is None or seen[label] < stop):
            chosen.append(index)
        seen[label] += 1
    return chosen


@pytest.mark.parametrize('start, stop', [(0, 3), (2, 5), (4, 5), (0, None),
                                         (3, None)])
@pytest.mark.parametrize('seed', range(3))
def test_selection(start, stop, seed):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.r_[np.repeat(np.arange(6), 5),
                                   rng.integers(0, 6, 40)])
    found = select_per_class(labels, start, stop, 'abcdef')
    assert found.tolist() == by_counting(labels.tolist(), start, stop)
    if stop is not None:
        assert (np.bincount(labels[found]) == stop - start).all()


def test_parts_make_the_whole():
    labels = np.random.default_rng(0).integers(0, 4, 200)
    parts = [
        select_per_class(labels, *pair, 'abcd')
        for pair in ((0, 10), (10, 17), (17, None))
    ]
    assert sorted(np.concatenate(parts)) == list(range(200))


@pytest.mark.parametrize('start, stop, words', [
    (0, 3, r"\(0, 3\) needs 3 images of each class, but there are 2 of "
     "class 'cat'"),
    (2, None, r"\(2, None\) needs 3 images of each class, but there are 2 of "
     "class 'cat'"),
])
def test_too_few(start, stop, words):
    labels = np.array([0, 0, 0, 1, 1, 2, 2, 2])
    with pytest.raises(ConfigError, match=words):
        select_per_class(labels, start, stop, ['dog', 'cat', 'owl'])


def test_class_without_images_and_without_a_name():
    with pytest.raises(ConfigError, match="there are 0 of class 'owl'"):
        select_per_class(np.array([0, 1]), 0, 1, ['dog', 'cat', 'owl'])
    with pytest.raises(ConfigError, match='there are 0 of class 1$'):
        select_per_class(np.array([0, 2]), 0, 1, ['dog'])
    with pytest.raises(ConfigError, match="there are 0 of class 'dog'"):
        select_per_class(np.array([], np.int64), 0, None, ['dog'])


@pytest.mark.parametrize('value', [(0, 1), [3, 7], (5, None)])
def test_pairs(value):
    check_per_class('it', value)


@pytest.mark.parametrize('value', [
    3, (1, ), (0, 1, 2), 'ab', (-1, 2), (2, 2), (3, 1), (0, 0), (0., 1),
    (False, True), (False, 1), (None, 3), (0, -1)
])
def test_no_pairs(value):
    with pytest.raises(
            ConfigError, match='it must be two whole numbers .* got ') as info:
        check_per_class('it', value)
    assert str(info.value).endswith(repr(value))
