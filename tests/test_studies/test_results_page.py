"""What docs/results.md says of the data-poor study, beyond the tables."""
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

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
        for method in ('mcod', 'always_on', 'ramp', 'dml')
    ]
    difference = max(means) - min(means)
    assert f'their means differ by {difference:.2f} points' in text
    worse = [
        means[0] -
        np.mean([values(method, f'{name}/top1') for name in ('resnet', 'vgg')])
        for method in ('on_off', 'kdcl_mean', 'kdcl_min_logit')
    ]
    assert f'are {min(worse):.1f} to {max(worse):.1f} points worse' in text


def test_every_method_helps_every_network(text):
    gains = {
        (method, name): values(method, f'{name}/top1') - values(
            'solo', f'{name}/top1')
        for method in ('always_on', 'ramp', 'on_off', 'mcod', 'dml',
                       'kdcl_mean', 'kdcl_min_logit', 'kd')
        for name in ('resnet', 'vgg') if (method, name) != ('kd', 'vgg')
    }
    means = [gain.mean() for gain in gains.values()]
    assert f'{min(means):.1f} to {max(means):.1f} points over' in text
    for gain in gains.values():
        assert stats.ttest_1samp(gain, 0).confidence_interval().low > 0
    kd = gains['kd', 'resnet']
    words = '+{:.1f} points, by seed +{:.1f}, +{:.1f} and +{:.1f},'
    assert words.format(kd.mean(), *kd) in text


def test_best_ensemble(text):
    kdcl, mcod, solo = (
        values(method, 'ensemble/top1')
        for method in ('kdcl_mean', 'mcod', 'solo'))
    better = kdcl - mcod
    assert (f'{(kdcl - solo).mean():.1f} points, {better.min():.1f} to '
            f'{better.max():.1f} more than MCOD-style by seed') in text


def test_calibration(text):
    errors = {
        method: np.mean([
            values(method, f'{name}/ece') for name in ('resnet', 'vgg')
            if (method, name) != ('kd', 'vgg')
        ])
        for method in ('solo', 'always_on', 'ramp', 'on_off', 'mcod', 'dml',
                       'kdcl_mean', 'kd', 'kdcl_min_logit')
    }
    solo, *softened, kd, least = errors.values()
    assert (f'falls from {solo:.0f} % to between {min(softened):.0f} and '
            f'{max(softened):.0f} %') in text
    assert f'its confidence over ({kd:.0f} %)' in text
    assert f'overconfident ({least:.0f} %)' in text
