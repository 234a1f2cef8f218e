"""The numbers of docs/results.md and docs/first_studies.md.

Of each item of a list all numbers are held, in their order.
"""
import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from mcod_plugin.compare.statistics import TwoWay

from .grid import (BRANCHES, CELLS, DEFAULT, NEW_SEEDS, TEST, accuracies,
                   everywhere, gains, lead, pulls, tables)
from .prose import items, numbers

ROOT = Path(__file__).parents[2]


def records(method, study='data_poor_cifar100', seeds=3):
    """Of the first seeds."""
    folder = ROOT / 'docs' / 'results' / study
    return [
        json.loads((folder / f'{method}_seed{seed}.json').read_text())
        for seed in range(seeds)
    ]


def values(method, key, epoch=40):
    """Of an epoch of the data-poor study, of three seeds."""
    curves = [record['curves'] for record in records(method)]
    return np.array(
        [curve[key][curve['epoch'].index(epoch)] for curve in curves])


def last(method, key):
    """Of the last epoch of the study of small networks, of three seeds."""
    found = records(method, 'small_cifar100')
    return np.array([record['last'][key] for record in found])


def gain(method, *names):
    """The mean of some networks' gains over solo, of three seeds."""
    return np.mean([
        last(method, f'{name}/top1') - last('solo', f'{name}/top1')
        for name in names
    ], 0)


def section(title, page='results'):
    """The items of a section."""
    text = (ROOT / 'docs' / f'{page}.md').read_text()
    return items(text.partition(f'## {title}')[2].partition('\n## ')[0])


def ends(values):
    """The least and the greatest."""
    return [min(values), max(values)]


def shown(pattern, values):
    """Numbers as a page writes them; none is a negative zero."""
    return [
        text.replace('-0.0', '0.0') if float(text) == 0 else text
        for text in (format(value, pattern) for value in values)
    ]


@pytest.fixture(scope='module')
def text():
    return section('Where networks overfit', 'first_studies')


@pytest.fixture(scope='module')
def small():
    return section('Small networks', 'first_studies')


def means(*methods):
    """Mean accuracy of both networks in the data-poor study."""
    return [
        np.mean([values(method, f'{name}/top1') for name in ('resnet', 'vgg')])
        for method in methods
    ]


def test_every_method_helps_every_network(text):
    gains = {
        (method, name):
        values(method, f'{name}/top1') - values('solo', f'{name}/top1')
        for method in ('always_on', 'ramp', 'on_off', 'mcod_constant', 'dml',
                       'mean_t4_w05', 'min_logit_t4_w05', 'kd')
        for name in ('resnet', 'vgg') if (method, name) != ('kd', 'vgg')
    }
    for gain in gains.values():
        assert stats.ttest_1samp(gain, 0).confidence_interval().low > 0
    found = [gain.mean() for gain in gains.values()]
    assert numbers(text[1]) == shown('.1f', ends(found))
    kd = gains['kd', 'resnet']
    assert numbers(text[5]) == shown('+.1f', [kd.mean(), *kd])


def test_methods_are_level(text):
    level = means('mcod_constant', 'always_on', 'ramp', 'dml')
    worse = level[0] - means('on_off', 'mean_t4_w05', 'min_logit_t4_w05')
    assert numbers(text[2]) == [
        f'{max(level) - min(level):.2f}',
        # of a method: weight and temperature
        '0.5',
        '4',
        *shown('.1f', ends(worse)),
    ]


def test_best_ensemble(text):
    solo, mcod, always, dml, best = (
        values(method, 'ensemble/top1')
        for method in ('solo', 'mcod_constant', 'always_on', 'dml',
                       'mean_t4_w05'))
    assert ((mcod - solo) > 0).all() and ((always - solo) > 0).all()
    assert numbers(text[3]) == [
        *shown('.1f', [(mcod - solo).mean(), (always - solo).mean()]),
        *shown('.1f', ends([(one - dml).mean() for one in (mcod, always)])),
        '4',
        *shown('.1f', [(best - solo).mean(), *ends(best - mcod)]),
    ]


def test_diversity(text):
    half, end = ({
        method:
        100 * values(method, 'diversity/disagreement', epoch).mean()
        for method in ('solo', 'always_on', 'on_off', 'mcod_constant')
    } for epoch in (20, 40))
    ensembles = [
        values(method, 'ensemble/top1').mean()
        for method in ('on_off', 'mcod_constant')
    ]
    worse = [
        values('mcod_constant', f'{name}/top1') -
        values('on_off', f'{name}/top1') for name in ('vgg', 'resnet')
    ]
    assert numbers(text[4]) == [
        '20',
        *shown('.0f',
               [half['mcod_constant'], half['solo'], half['always_on']]),
        *shown('.1f', [end['mcod_constant'], end['always_on'], end['on_off']]),
        *shown('.2f', ensembles),
        *shown('.1f', [*ends(worse[0]), *ends(worse[1])]),
    ]


def test_calibration(text):
    errors = {
        method:
        np.mean([
            values(method, f'{name}/ece') for name in ('resnet', 'vgg')
            if (method, name) != ('kd', 'vgg')
        ])
        for method in ('solo', 'always_on', 'ramp', 'on_off', 'mcod_constant',
                       'dml', 'mean_t4_w05', 'kd', 'min_logit_t4_w05')
    }
    solo, *softened, kd, least = errors.values()
    assert numbers(text[6]) == shown('.0f', [solo, *ends(softened), kd, least])


def test_small_networks(small):
    """And how little they fit."""
    vgg, resnet, ensemble = (
        gain('mcod_constant', name) for name in ('vgg', 'resnet', 'ensemble'))
    assert vgg.min() > 0 > ensemble.max()
    losses = [
        np.mean([
            record['train_loss'][name][-1]
            for record in records('solo', study)
        ]) for study, name in (('small_cifar100', 'resnet'), ('small_cifar100',
                                                              'vgg'),
                               ('data_poor_cifar100', 'vgg'))
    ]
    assert numbers(small[1]) == shown(
        '.1f', [vgg.mean(), resnet.mean(), *losses])
    # as the report's table has it, by all methods of the study
    assert re.search(
        r'\| `mcod_constant` +\| +\+0.81 \[0\.\d+, \d\.\d+\] \| +\+1.80 \[1\.',
        (ROOT / 'docs/results/small_cifar100/report.md').read_text())


def test_methods_for_small_networks(small):
    gains = {
        method: gain(method, 'resnet', 'vgg').mean()
        for method in ('on_off', 'mcod_constant', 'always_on', 'ramp',
                       'mean_t4_w05', 'min_logit_t4_w05', 'dml')
    }
    better = {
        f'{gains[method] - gains["always_on"]:.1f}'
        for method in ('on_off', 'mcod_constant')
    }
    rounded = shown('.1f', gains.values())
    # always on and at a rising weight
    assert rounded[2] == rounded.pop(3)
    assert numbers(small[2]) == [*rounded, *better]


def test_ensembles_of_small_networks(small):
    losses = {
        method: -gain(method, 'ensemble')
        for method in ('on_off', 'mcod_constant', 'always_on', 'ramp',
                       'mean_t4_w05', 'min_logit_t4_w05', 'dml')
    }
    found = {method: loss.mean() for method, loss in losses.items()}
    assert min(found.values()) == found['on_off'] > 0
    assert max(found.values()) == found['dml']
    share = {
        method: 100 * last(method, 'diversity/disagreement').mean()
        for method in ('solo', *losses)
    }
    assert min(share, key=share.get) == 'dml'
    below = []
    for method in ('solo', 'mcod_constant'):
        best = np.max(
            [last(method, f'{name}/top1') for name in ('resnet', 'vgg')], 0)
        below.append((last(method, 'ensemble/top1') - best).mean())
    assert numbers(small[3]) == [
        f'{found["mcod_constant"]:.1f}',
        *shown('.0f', [share['solo'], share['mcod_constant']]),
        *shown('.1f', below),
        f'{share["dml"]:.0f}',
        f'{found["dml"]:.1f}',
    ]
    above = [
        losses['always_on'] - losses[method]
        for method in ('on_off', 'mcod_constant')
    ]
    assert numbers(small[4]) == [
        f'{found["on_off"]:.1f}',
        *shown('.1f', ends(above[0])),
        *shown('.0f', [share['on_off'], share['always_on']]),
        *shown('.1f', ends(above[1])),
    ]


def test_small_networks_are_calibrated(small):
    errors = [
        last(method, 'vgg/ece').mean() for method in ('solo', 'mcod_constant')
    ]
    assert numbers(small[5]) == shown('.1f', errors)


def test_families():
    prose = section('The four families', 'first_studies')
    found, above, half = {}, {}, {}
    for method in ('solo', 'always_on', 'mcod_constant'):
        [record] = records(method, 'small_families_cifar100', seeds=1)
        found[method] = np.array([
            record['last'][f'{name}/top1']
            for name in ('alexnet', 'vgg', 'resnet', 'densenet', 'ensemble')
        ])
        above[method] = found[method][4] - max(found[method][:4])
        curves = record['curves']
        half[method], end = (
            100 *
            curves['diversity/disagreement'][curves['epoch'].index(epoch)]
            for epoch in (20, 40))
        assert method == 'solo' or f'{end:.0f}' == '61'
    for method in ('always_on', 'mcod_constant'):
        gains = found[method] - found['solo']
        assert min(gains[:4]) > 0 > gains[4]
        assert max(gains) == gains[0]
    assert min(found['solo']) == found['solo'][0]
    assert numbers(prose[1]) == shown('.1f', above.values())
    assert numbers(prose[2]) == [
        *shown('.0f', [half['mcod_constant'], half['solo']]),
        '20',
        f'{half["always_on"]:.0f}',
        '61',
    ]


@pytest.mark.parametrize('number', range(10))
def test_tables_over_studies(number):
    """They are what the runs give."""
    page = (ROOT / 'docs' / 'results.md').read_text()
    wanted = [*tables()]
    assert len(wanted) == 10
    assert f'\n\n{wanted[number]}\n' in page


def test_schedules_on_test_images():
    """What the page says of the pairs, by the first seeds and by new ones."""
    def difference(first, second, seeds=None):
        found = gains(TEST, BRANCHES, seeds)
        return found[first][0].value - found[second][0].value

    def told_from_noise(*pair):
        low, high = TwoWay(accuracies(TEST, BRANCHES)).difference(
            *pair).interval()
        return low > 0 or high < 0

    assert told_from_noise('always_on', 'on_w05')
    for seeds in (None, NEW_SEEDS):
        assert .4 < difference('always_on', 'on_w05', seeds) < .5
    assert abs(difference('on_off', 'on_w05')) < .1
    # below always on and above half the weight
    gaps = [
        difference('always_on', 'mcod'),
        difference('mcod', 'on_w05')
    ]
    assert shown('.1f', gaps) == ['0.3', '0.2']
    for other in ('always_on', 'on_w05'):
        assert not told_from_noise('mcod', other)
    assert -.5 < difference('mcod', 'always_on', NEW_SEEDS) < 0
    ensemble = gains(TEST, 'ensemble')
    for method in ('mcod', 'always_on', 'on_w05'):
        gain, _ = ensemble[method]
        assert gain.excludes_zero() and .35 < gain.value < .65
    assert ensemble['always_on'][0].value < ensemble['on_w05'][0].value


def test_where_it_helps():
    """What the page says of those tables in short."""
    found = {
        what: {
            cell: {
                name: gain.value
                for name, (gain, _) in gains(study, what).items()
            }
            for cell, study in CELLS.items()
        }
        for what in (BRANCHES, 'ensemble')
    }
    mean = {cell: values[DEFAULT] for cell, values in found[BRANCHES].items()}
    *_, larger = CELLS
    told = []
    for words in ('few steps', 'more steps'):
        values = [gain for cell, gain in mean.items() if words in cell]
        assert len(values) == 3
        told += shown('.1f', ends(values))
    told.append(f'{mean[larger]:.1f}')
    page = (ROOT / 'docs' / 'results.md').read_text()
    short = items(page.partition('In short:')[2].partition('All runs')[0])
    assert numbers(short[0]) == told
    assert min(mean.values()) > 0
    constant = {
        cell: values['mcod_constant']
        for cell, values in found[BRANCHES].items()
    }
    assert min(constant.values()) == constant['10 classes, few steps']
    assert f"{constant['10 classes, few steps']:.1f}" == '-2.5'
    assert constant['20 classes, few steps'] < 0
    assert all(
        gain > 0 for cell, gain in constant.items() if 'more steps' in cell)
    ensemble = [values[DEFAULT] for values in found['ensemble'].values()]
    assert sum(gain > 0 for gain in ensemble) == 3 and min(ensemble) > -2.05


def test_choice_of_the_default():
    rows = everywhere()
    assert list(rows) == list(CELLS)
    *_, larger = rows.values()
    for start in ('mcod', 'slow_start'):
        assert all(values[start] > -.3 for values in rows.values())
        assert larger[start] < larger['mcod_constant'] - .3
    page = ' '.join((ROOT / 'docs' / 'results.md').read_text().split())
    told = lead('slow_start', 'mcod')
    assert f'over the rows `slow_start` is {told[:told.index("[")]}' in page
    assert told[told.index('['):] in page
    low, high = map(float, told[told.index('[') + 1:-1].split(', '))
    assert -.3 < low < 0 < high < .3
    pull = {
        method: dict((cell, float(first)) for cell, first, _ in pulls(method))
        for method in ('slow_start', 'always_on')
    }
    cell = '10 classes, few steps'
    assert pull['slow_start'][cell] == pull['always_on'][cell]
    gain = gains(CELLS[cell], BRANCHES)
    assert gain['slow_start'][0].value > 0 > gain['always_on'][0].value
    half, seeds = gain['on_w05']
    low, high = half.interval()
    assert f'gains {half.value:+.2f} [{low:.2f}, {high:.2f}] with' in page
    found = accuracies(CELLS[cell], BRANCHES)
    by_seed = [
        found['on_w05'][seed] - found['solo'][seed] for seed in range(3)
    ]
    assert seeds == 3
    assert shown('.1f', ends(by_seed)) == ['-1.7', '1.0']


def test_cost_of_the_slow_start():
    """With one seed, in the study of the defaults."""
    costs = {}
    for method in ('mcod', 'slow_start_slower', 'mcod_constant',
                   'mcod_faster', 'slow_start'):
        record, = records(method, 'tuning_cifar100', 1)
        solo, = records('solo', 'tuning_cifar100', 1)
        costs[method] = np.mean([
            record['last'][f'{name}/top1'] - solo['last'][f'{name}/top1']
            for name in ('resnet', 'vgg')
        ])
    slow, always, first, *fifths = costs.values()
    # of 100 classes; with seed 0
    assert numbers(section('Choosing the defaults', 'first_studies')[6]) == [
        '100', '0', *shown('.1f', [slow, always, first, *fifths])
    ]
