from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config

from mcod_plugin.alone.cohort import class_names, origin
from mcod_plugin.errors import ConfigError

NAMED = {'meta': {'dataset_meta': {'classes': ('cat', 'dog')}}}


@pytest.mark.parametrize('content, classes, expected', [
    (NAMED, ['cat', 'dog'], ['cat', 'dog']),
    (NAMED, None, ['cat', 'dog']),
    ({
        'meta': {}
    }, ('a', 'b'), ['a', 'b']),
    ({
        'meta': {
            'dataset_meta': None
        }
    }, [0, 1], ['0', '1']),
    ({
        'meta': None
    }, None, None),
    ({}, (), None),
])
def test_class_names(content, classes, expected):
    images = SimpleNamespace(classes=classes)
    assert class_names(content, images, 2) == expected


def test_images_of_other_classes():
    images = SimpleNamespace(classes=['dog', 'cat'], source='9 images of val')
    match = (r'9 images of val: the data must have the classes of the '
             r'checkpoint \(2\) in the same order; of 2 it has them in '
             r'another order \(label 0 is dog, not cat, 1 is cat, not dog\)')
    with pytest.raises(ConfigError, match=match):
        class_names(NAMED, images, 2)


@pytest.mark.parametrize('content, source', [
    (NAMED, 'meta.dataset_meta.classes of the checkpoint'),
    ({}, '9 images of val'),
])
def test_a_name_for_each_class(content, source):
    images = SimpleNamespace(classes=['cat', 'dog'], source='9 images of val')
    with pytest.raises(
            ConfigError,
            match=f'^{source} must have a name for each of the 10 classes; '
            'got 2$'):
        class_names(content, images, 10)


def test_origin(tmp_path):
    path = tmp_path / 'cohort.py'
    path.write_text('a = 1\n')
    meta = dict(epoch=3, iter=12, seed=0, time='now')
    found = origin(
        Config.fromfile(str(path)), '/some/where/epoch_3.pth', {'meta': meta})
    assert found.pop('versions')['torch'] == torch.__version__.split('+')[0]
    # Neither folders of this machine nor what else is there.
    assert found == dict(
        config='cohort.py', checkpoint='epoch_3.pth', epoch=3, iter=12, seed=0)


def test_nothing_is_known():
    found = origin(Config(dict(a=1)), 'weights.pth', {})
    assert set(found) == {'config', 'checkpoint', 'versions'}
    assert found['config'] == ''
    assert set(origin(Config(), 'x', {'meta': {'seed': None}})) == set(found)
