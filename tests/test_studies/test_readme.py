"""The numbers of the README are those of the results."""
import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from .prose import items, numbers

ROOT = Path(__file__).parents[2]
STUDY = 'data_poor_cifar100'
METHODS = {
    'each alone': 'solo',
    'MCOD-style (`mcod`)': 'mcod',
    'always on': 'always_on',
    'always on, weight of 0.5': 'on_w05',
}
NUMBERS = dict(three=3, four=4, five=5, six=6, seven=7, eight=8)


def accuracies(method, name, study=STUDY, seeds=3):
    """Those of the last epoch, of the first seeds."""
    runs = [
        json.loads((ROOT / 'docs' / 'results' / study /
                    f'{method}_seed{seed}.json').read_text())
        for seed in range(seeds)
    ]
    return np.array([run['curves'][f'{name}/top1'][-1] for run in runs])


def difference(method, name):
    """The gain over solo and half the width of its interval, by least squares
    of the effects of method and seed in all runs that train a network."""
    runs = [
        json.loads(path.read_text())
        for path in (ROOT / 'docs' / 'results' / STUDY).glob('*_seed*.json')
    ]
    runs = [run for run in runs if name in ('ensemble', *run['train_loss'])]
    effects = sorted({run[kind] for run in runs
                      for kind in ('method', 'seed')}, key=str)
    effects.remove('solo')
    design = np.array([[1, *(effect in (run['method'], run['seed'])
                             for effect in effects)] for run in runs], float)
    values = np.array([run['curves'][f'{name}/top1'][-1] for run in runs])
    inverse = np.linalg.pinv(design.T @ design)
    found = inverse @ design.T @ values
    freedom = len(runs) - np.linalg.matrix_rank(design)
    variance = ((values - design @ found)**2).sum() / freedom
    place = 1 + effects.index(method)
    half = stats.t.ppf(.975, freedom) * (variance * inverse[place, place])**.5
    return found[place], half


def section():
    text = (ROOT / 'README.md').read_text()
    return text.partition('## Does it help?')[2].partition('\n## ')[0]


def rows():
    table = re.findall(r'^\| (.*) \|$', section().replace('**', ''), re.M)
    return [row.split(' | ') for row in table[1:]]


def test_all_methods_are_there():
    assert [row[0] for row in rows()] == list(METHODS)


@pytest.mark.parametrize('row', rows(), ids=lambda row: row[0])
def test_numbers(row):
    method, *cells = row
    seeds = NUMBERS[re.search(r'mean of (\w+) seeds', section())[1]]
    for name, cell in zip(('resnet', 'vgg', 'ensemble'), cells, strict=True):
        wanted = [accuracies(METHODS[method], name, seeds=seeds).mean()]
        if METHODS[method] != 'solo':
            gain, half = difference(METHODS[method], name)
            wanted += [gain, gain - half, gain + half]
        # What ends in half a hundredth may be rounded either way.
        assert [*map(float, numbers(cell))] == pytest.approx(
            wanted, rel=0, abs=.00501)


def gains(method, study):
    """Of each network and of the ensemble over training alone, of three
    seeds."""
    return [
        accuracies(method, name, study) - accuracies('solo', name, study)
        for name in ('resnet', 'vgg', 'ensemble')
    ]


def test_what_the_text_says():
    for method in [*METHODS.values()][1:]:
        both = [difference(method, name)[0] for name in ('resnet', 'vgg')]
        assert f'{np.mean(both):.0f}' == '2'
    *small, ensemble = gains('always_on', 'small_cifar100')
    assert 0 < np.mean(small) < np.mean(gains('always_on', STUDY)[:2])
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
    assert numbers(items(section())[-1]) == [
        *(f'{ratio["median"]:.2f}' for ratio in ratios),
        *(f'{contenders[name]["milliseconds"]:.1f}'
          for name in ('runner/on', graphs)),
    ]
