"""The numbers of the README are those of the results."""
import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from .prose import items, numbers

ROOT = Path(__file__).parents[2]
METHODS = {
    'each alone': 'solo',
    'MCOD-style (`mcod`)': 'mcod',
    'MCOD-style, constant weight': 'mcod_constant',
    'always on': 'always_on',
    'DML': 'dml',
}


def accuracies(method, name, study='data_poor_cifar100'):
    """Those of the last epoch, of three seeds."""
    runs = [
        json.loads((ROOT / 'docs' / 'results' / study /
                    f'{method}_seed{seed}.json').read_text())
        for seed in range(3)
    ]
    return np.array([run['curves'][f'{name}/top1'][-1] for run in runs])


def half_width(name):
    """Of the interval of a gain: what method and seed leave to chance, in all
    methods that train this network."""
    folder = ROOT / 'docs' / 'results' / 'data_poor_cifar100'
    methods = {
        path.name.partition('_seed')[0]
        for path in folder.glob('*_seed0.json')
    }
    table = np.array([
        accuracies(method, name) for method in sorted(methods)
        if (method, name) != ('kd', 'vgg')
    ])
    rest = (
        table - table.mean(1, keepdims=True) - table.mean(0) + table.mean())
    freedom = (table.shape[0] - 1) * (table.shape[1] - 1)
    variance = (rest**2).sum() / freedom
    return stats.t.ppf(.975, freedom) * (2 / 3 * variance)**.5


def rows():
    text = (ROOT / 'README.md').read_text()
    section = text.partition('## Does it help?')[2].partition('\n## ')[0]
    table = re.findall(r'^\| (.*) \|$', section.replace('**', ''), re.M)
    return [row.split(' | ') for row in table[1:]]


def test_all_methods_are_there():
    assert [row[0] for row in rows()] == list(METHODS)


@pytest.mark.parametrize('row', rows(), ids=lambda row: row[0])
def test_numbers(row):
    method, *cells = row
    for name, cell in zip(('resnet', 'vgg', 'ensemble'), cells, strict=True):
        values = accuracies(METHODS[method], name)
        text = f'{values.mean():.2f}'
        if METHODS[method] != 'solo':
            base = accuracies('solo', name)
            gain, half = (values - base).mean(), half_width(name)
            text += f', {gain:+.2f} [{gain - half:.2f}, {gain + half:.2f}]'
        assert cell == text


def gains(method, study):
    """Of each network and of the ensemble over training alone, of three
    seeds."""
    return [
        accuracies(method, name, study) - accuracies('solo', name, study)
        for name in ('resnet', 'vgg', 'ensemble')
    ]


def test_what_the_text_says():
    for method in METHODS.values():
        if method == 'solo':
            continue
        resnet, vgg, _ = gains(method, 'data_poor_cifar100')
        assert np.mean([resnet, vgg]) > 2
        if method == 'mcod':
            continue
        *small, ensemble = gains(method, 'small_cifar100')
        assert 0 < np.mean(small) < np.mean([resnet, vgg])
        assert ensemble.max() < 0
    *few, ensemble = gains('mcod_constant', 'balance_10_few')
    assert np.max(np.mean(few, 0)) < 0 and ensemble.max() < 0
    # The default, which is said to start from nothing.
    resnet, vgg, _ = gains('mcod', 'balance_10_few')
    assert np.mean([resnet, vgg]) > np.mean(few)


def test_speed():
    ratios = [
        json.loads(
            (ROOT / 'docs' / 'performance' / f'{study}_cpu.json'
             ).read_text())['ratios']['epoch of cohort : epochs of solos']
        for study in ('small', 'main')
    ]
    gpu = json.loads(
        (ROOT / 'docs' / 'performance' / 'compile_gpu.json').read_text())
    contenders = gpu['contenders']
    graphs = ('runner/compile.mode=reduce-overhead '
              'train_dataloader.drop_last=True')
    text = (ROOT / 'README.md').read_text()
    part = text.partition('## Does it help?')[2].partition('\n## ')[0]
    assert numbers(items(part)[-1]) == [
        *(f'{ratio["median"]:.2f}' for ratio in ratios),
        *(f'{contenders[name]["milliseconds"]:.1f}'
          for name in ('runner/on', graphs)),
    ]
