"""What docs/results.md says of the data-poor study, beyond the tables."""
import json
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


def values(method, key, epoch=40):
    """Of an epoch, of three seeds."""
    found = []
    for seed in range(3):
        path = (ROOT / 'docs' / 'results' / 'data_poor_cifar100' /
                f'{method}_seed{seed}.json')
        curves = json.loads(path.read_text())['curves']
        found.append(curves[key][curves['epoch'].index(epoch)])
    return np.array(found)


@pytest.fixture(scope='module')
def text():
    page = (ROOT / 'docs' / 'results.md').read_text()
    section = page.partition('## Where networks overfit')[2]
    return ' '.join(section.partition('<!-- study')[0].split())


def test_disagreement(text):
    half, end = ({
        method: 100 * values(method, 'diversity/disagreement', epoch).mean()
        for method in ('solo', 'always_on', 'on_off', 'mcod')
    } for epoch in (20, 40))
    assert (f'disagree on {half["mcod"]:.0f} % of the images, nearly as solo '
            f'networks do ({half["solo"]:.0f} %), against '
            f'{half["always_on"]:.0f} % if always on') in text
    assert f'{end["mcod"]:.1f} % against {end["always_on"]:.1f} %' in text
    assert f'keep more of it, {end["on_off"]:.1f} %' in text


def test_gaps_that_stay(text):
    ensembles = [
        values(method, 'ensemble/top1').mean() for method in ('on_off', 'mcod')
    ]
    assert '({:.2f} and {:.2f} %)'.format(*ensembles) in text
    worse = {
        name: values('mcod', f'{name}/top1') - values('on_off', f'{name}/top1')
        for name in ('vgg', 'resnet')
    }
    for name, words in (('vgg', 'the VGG is {:.1f} to {:.1f} points worse'),
                        ('resnet', 'the ResNet {:.1f} to {:.1f}')):
        assert words.format(worse[name].min(), worse[name].max()) in text


def test_methods_are_level(text):
    means = [
        np.mean([values(method, f'{name}/top1') for name in ('resnet', 'vgg')])
        for method in ('mcod', 'always_on', 'dml')
    ]
    difference = max(means) - min(means)
    assert f'their means differ by {difference:.2f} points' in text
