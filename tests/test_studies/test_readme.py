"""The README's table of gains is that of the results."""
import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

ROOT = Path(__file__).parents[2]
METHODS = {
    'each alone': 'solo',
    'MCOD-style, constant weight': 'mcod_constant',
    'always on': 'always_on',
    'DML': 'dml',
    'mean, T = 4, weight 0.5': 'mean_t4_w05'
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


def test_small_networks():
    gains = [(accuracies('mcod_constant', name, 'small_cifar100') -
              accuracies('solo', name, 'small_cifar100')).mean()
             for name in ('resnet', 'vgg', 'ensemble')]
    text = ' '.join((ROOT / 'README.md').read_text().split())
    assert ('gain {:.1f} and {:.1f} points by MCOD-style, and their '
            '*ensemble* loses {:.1f}:'.format(*gains[:2], -gains[2])) in text
    phases = [
        np.mean([
            accuracies('on_off', name, 'small_cifar100') -
            accuracies('always_on', name, 'small_cifar100') for name in names
        ]) for names in (('resnet', 'vgg'), ('ensemble', ))
    ]
    assert 0 < phases[0] < 0.3
    assert f'their ensemble is {phases[1]:.1f} points better' in text


def test_few_classes():
    """As the reports have it."""
    text = ' '.join((ROOT / 'README.md').read_text().split())
    gains = {}
    for study in ('10_few', '100_poor'):
        report = (ROOT / 'docs' / 'results' / f'balance_{study}' /
                  'report.md').read_text()
        part = report.partition('**Gain**')[2].partition('\n**')[0]
        for method in ('mcod_constant', 'mcod_ramp_half'):
            line, = [
                line for line in part.splitlines()
                if line.startswith(f'| `{method}`')
            ]
            gains[study, method] = line.split('|')[-3].strip(' *')
    loss = gains['10_few', 'mcod_constant'].split()[0]
    assert f'few steps {-float(loss):.1f} points of the mean' in text
    assert (f'it gains {gains["10_few", "mcod_ramp_half"]} over training '
            'alone, on 100 classes with few images '
            f'{gains["100_poor", "mcod_ramp_half"]}, as much as the constant '
            f'weight ({gains["100_poor", "mcod_constant"].split()[0]}),'
            ) in text
