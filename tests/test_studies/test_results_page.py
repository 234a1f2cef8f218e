"""What docs/results.md says of three studies, beyond the tables."""
import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

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


def section(title):
    page = (ROOT / 'docs' / 'results.md').read_text()
    prose = page.partition(f'## {title}')[2].partition('<!-- study')[0]
    return ' '.join(prose.split())


@pytest.fixture(scope='module')
def text():
    return section('Where networks overfit')


@pytest.fixture(scope='module')
def small():
    return section('Small networks')


def test_disagreement(text):
    half, end = ({
        method:
        100 * values(method, 'diversity/disagreement', epoch).mean()
        for method in ('solo', 'always_on', 'on_off', 'mcod_constant')
    } for epoch in (20, 40))
    assert (f'disagree on {half["mcod_constant"]:.0f} % of the images, nearly '
            'as solo '
            f'networks do ({half["solo"]:.0f} %), against '
            f'{half["always_on"]:.0f} % if always on') in text
    assert (f'{end["mcod_constant"]:.1f} % against '
            f'{end["always_on"]:.1f} %') in text
    assert f'keep more of it, {end["on_off"]:.1f} %' in text


def test_gaps_that_stay(text):
    ensembles = [
        values(method, 'ensemble/top1').mean()
        for method in ('on_off', 'mcod_constant')
    ]
    assert '({:.2f} and {:.2f} %)'.format(*ensembles) in text
    worse = {
        name:
        values('mcod_constant', f'{name}/top1') -
        values('on_off', f'{name}/top1')
        for name in ('vgg', 'resnet')
    }
    for name, words in (('vgg', 'the VGG is {:.1f} to {:.1f} points worse'),
                        ('resnet', 'the ResNet {:.1f} to {:.1f}')):
        assert words.format(worse[name].min(), worse[name].max()) in text


def test_methods_are_level(text):
    means = [
        np.mean([values(method, f'{name}/top1') for name in ('resnet', 'vgg')])
        for method in ('mcod_constant', 'always_on', 'ramp', 'dml')
    ]
    difference = max(means) - min(means)
    assert f'their means differ by {difference:.2f} points' in text
    worse = [
        means[0] -
        np.mean([values(method, f'{name}/top1') for name in ('resnet', 'vgg')])
        for method in ('on_off', 'mean_t4_w05', 'min_logit_t4_w05')
    ]
    assert f'are {min(worse):.1f} to {max(worse):.1f} points worse' in text


def test_every_method_helps_every_network(text):
    gains = {
        (method, name):
        values(method, f'{name}/top1') - values('solo', f'{name}/top1')
        for method in ('always_on', 'ramp', 'on_off', 'mcod_constant', 'dml',
                       'mean_t4_w05', 'min_logit_t4_w05', 'kd')
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
        for method in ('mean_t4_w05', 'mcod_constant', 'solo'))
    better = kdcl - mcod
    assert (f'{(kdcl - solo).mean():.1f} points, {better.min():.1f} to '
            f'{better.max():.1f} more than MCOD-style by seed') in text


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
    assert (f'falls from {solo:.0f} % to between {min(softened):.0f} and '
            f'{max(softened):.0f} %') in text
    assert f'its confidence over ({kd:.0f} %)' in text
    assert f'overconfident ({least:.0f} %)' in text


def test_small_networks(small):
    vgg, resnet, ensemble = (
        gain('mcod_constant', name) for name in ('vgg', 'resnet', 'ensemble'))
    assert vgg.min() > 0 > ensemble.max()
    # as the report's table has it, by all methods of the study
    assert re.search(
        r'\| `mcod_constant` +\| +\+0.81 \[0\.\d+, \d\.\d+\] \| +\+1.80 \[1\.',
        (ROOT / 'docs' / 'results.md').read_text())
    assert (f'the VGG {vgg.mean():.1f} points, in each of three seeds, the '
            f'ResNet {resnet.mean():.1f}') in small
    assert (f'it is {-ensemble.mean():.1f} points *worse*, in each '
            'seed') in small


def test_methods_for_small_networks(small):
    gains = {
        method: gain(method, 'resnet', 'vgg').mean()
        for method in ('on_off', 'mcod_constant', 'always_on', 'ramp',
                       'mean_t4_w05', 'min_logit_t4_w05', 'dml')
    }
    rounded = {key: f'{value:.1f}' for key, value in gains.items()}
    assert rounded['always_on'] == rounded['ramp']
    assert (
        'gains {on_off} points with gaps that stay (`on_off`), '
        '{mcod_constant} by MCOD-style, {always_on} always on or by a rising '
        'weight, '
        '{mean_t4_w05} and {min_logit_t4_w05} by `mean_t4_w05` and '
        '`min_logit_t4_w05` and {dml} by DML').format(**rounded) in small
    better = [
        gains[method] - gains['always_on']
        for method in ('on_off', 'mcod_constant')
    ]
    assert {f'{value:.1f}' for value in better} == {'0.2'}
    assert 'phases are 0.2 points better' in small


def test_ensembles_of_small_networks(small):
    losses = {
        method: -gain(method, 'ensemble')
        for method in ('on_off', 'mcod_constant', 'always_on', 'ramp',
                       'mean_t4_w05', 'min_logit_t4_w05', 'dml')
    }
    means = {method: loss.mean() for method, loss in losses.items()}
    assert min(means.values()) == means['on_off'] > 0
    assert max(means.values()) == means['dml']
    share = {
        method: 100 * last(method, 'diversity/disagreement').mean()
        for method in losses
    }
    assert min(share, key=share.get) == 'dml'
    assert (f'are most alike ({share["dml"]:.0f} %), loses '
            f'{means["dml"]:.1f} points') in small
    above = losses['always_on'] - losses['on_off']
    assert (f'loses least, {means["on_off"]:.1f} points, and is '
            f'{above.min():.1f} to {above.max():.1f} points above') in small
    assert (f'disagree on {share["on_off"]:.0f} % of the images, those of '
            f'always-on on {share["always_on"]:.0f} %') in small
    above = losses['always_on'] - losses['mcod_constant']
    assert (f'it is {above.min():.1f} to {above.max():.1f} points above '
            'always-on').replace('-0.0', '0.0') in small


def test_small_networks_do_not_fit(small):
    losses = [
        np.mean([
            record['train_loss'][name][-1]
            for record in records('solo', study)
        ]) for study, name in (('small_cifar100', 'resnet'), ('small_cifar100',
                                                              'vgg'),
                               ('data_poor_cifar100', 'vgg'))
    ]
    assert ('still {:.1f} for ResNet-8 and {:.1f} for the VGG, against {:.1f} '
            'for'.format(*losses)) in small


def test_small_networks_are_alike(small):
    share, below = {}, {}
    for method in ('solo', 'mcod_constant'):
        share[method] = 100 * last(method, 'diversity/disagreement').mean()
        best = np.max(
            [last(method, f'{name}/top1') for name in ('resnet', 'vgg')], 0)
        below[method] = (last(method, 'ensemble/top1') - best).mean()
    assert (f'from {share["solo"]:.0f} % to '
            f'{share["mcod_constant"]:.0f} %') in small
    assert (f'the better one is {below["solo"]:.1f} points below their '
            f'ensemble, together {below["mcod_constant"]:.1f}') in small


def test_small_networks_are_calibrated(small):
    errors = [
        last(method, 'vgg/ece').mean() for method in ('solo', 'mcod_constant')
    ]
    assert 'falls from {:.1f} % to {:.1f} %'.format(*errors) in small


def test_families():
    prose = section('The four families')
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
    assert ('alone is {solo:.1f} points above the best of them, together '
            '{always_on:.1f} to {mcod_constant:.1f}'.format(**above)) in prose
    assert ('({mcod_constant:.0f} and {solo:.0f} % at epoch 20, '
            '{always_on:.0f} % '
            'always on)'.format(**half)) in prose


ROWS = {
    'MCOD-style, constant weight': 'mcod_constant',
    'MCOD-style, weight from 0 to 1': 'mcod_w0_1',
    'MCOD-style, the default': 'mcod_ramp_half',
    'MCOD-style, gaps end and weight reaches 1 at a fifth': 'mcod_ramp_fifth',
    'always on, weight 1': 'always_on',
    'always on, weight 0.5': 'on_w05',
    'always on, weight reaches 1 at the half': 'on_ramp_half',
    'always on, weight reaches 1 at a fifth': 'on_ramp_fifth',
    "always on, a constant 0.1 of the labels' pull": 'balanced_01',
    "always on, a constant 0.3 of the labels' pull": 'balanced_03',
}

PAIRS = {
    'constant weight (`mcod_constant`) - solo': ('mcod_constant', 'solo'),
    '**slow start (`mcod`) - solo**': ('mcod_ramp_half', 'solo'),
    'slow start, always on - solo': ('on_ramp_half', 'solo'),
    'slow start - constant weight': ('mcod_ramp_half', 'mcod_constant'),
    'slow start - slow start, always on': ('mcod_ramp_half', 'on_ramp_half'),
}


@pytest.mark.parametrize('row', PAIRS)
def test_contrasts_of_balance(row):
    """Those of the reports."""
    page = (ROOT / 'docs' / 'results.md').read_text()
    line, = [
        line for line in page.splitlines() if line.startswith(f'| {row} |')
    ]
    cells = [cell.strip(' *') for cell in line.strip('|').split(' | ')][1:]
    for study, cell in zip(('10_few', '100_poor'), cells, strict=True):
        report = (ROOT / 'docs' / 'results' / f'balance_{study}' /
                  'report.md').read_text()
        method, other = PAIRS[row]
        if other == 'solo':
            gains = report.partition('**Gain**')[2].partition('\n**')[0]
            found, = [
                line.split('|')[-3].strip() for line in gains.splitlines()
                if line.startswith(f'| `{method}`')
            ]
            assert cell == found.strip('*')
        else:
            part = report.partition('**Contrasts of the mean')[2]
            found = re.search(
                rf'\| `{method}` - `{other}` +\| +(.*?) +\| +.*? \| +(.*?) ',
                part)
            assert cell == f'{found[1]}, p = {found[2]}'


def test_other_cells_of_balance():
    """Of the seeds that both have."""
    words = []
    for study, seeds in (('10_poor', 2), ('20_few', 1), ('100_few', 1)):
        for method, number in (('mcod_ramp_half', seeds), ('mcod_constant',
                                                           1)):
            gains = [
                np.mean([
                    one['last'][f'{name}/top1'] - alone['last'][f'{name}/top1']
                    for name in ('resnet', 'vgg')
                ]) for one, alone in zip(
                    records(method, f'balance_{study}', number),
                    records('solo', f'balance_{study}', number))
            ]
            words.append(np.mean(gains))
    assert ('`mcod` gains {:.1f} points on 10 classes with few images (a '
            'constant weight loses {:.1f}), {:.1f} on 20 classes with few '
            'steps ({:.1f}) and {:.1f} on 100 classes with few steps '
            '({:+.1f}).').format(
                words[0], -words[1],
                *words[2:]) in section('When it is too strong')


def test_cost_of_the_slow_start():
    """With one seed, in the study of the defaults."""
    gains = {}
    for method in ('gap1_w0_1_half', 'on_w0_1_half', 'gap1_w1'):
        record, = records(method, 'tuning_cifar100', 1)
        solo, = records('solo', 'tuning_cifar100', 1)
        gains[method] = np.mean([
            record['last'][f'{name}/top1'] - solo['last'][f'{name}/top1']
            for name in ('resnet', 'vgg')
        ])
    prose = section('Choosing the defaults')
    assert (
        'the mean of the branches gains {:.1f} points by it (always on and '
        'as slow to start {:.1f}) where it gained {:.1f}.'.format(
            *gains.values())) in prose
    assert 'they give {:.1f} points of {:.1f} away'.format(
        gains['gap1_w1'] - gains['gap1_w0_1_half'],
        gains['gap1_w1']) in section('When it is too strong')


@pytest.mark.parametrize('heading, study, number', [
    ('### Ten classes, 350 images', 'balance_10_few', 10),
    ('### Ten classes, 60 images', 'balance_10_poor', 3),
    ('### 100 classes', 'balance_100_poor', 6),
])
def test_balance(heading, study, number):
    page = (ROOT / 'docs' / 'results.md').read_text()
    part = page.partition(f'\n{heading}')[2].partition('\n#')[0]
    rows = [[cell.strip() for cell in line.strip('|').split('|')]
            for line in part.splitlines() if line.startswith('| ')]
    rows = {name: cells for name, *cells in rows[1:]}
    networks = ('resnet', 'vgg', 'ensemble')
    solo, = records('solo', study, 1)
    solo = [solo['last'][f'{name}/top1'] for name in networks]
    assert rows.pop('each alone') == [
        '0.00', '', *(f'{value:.2f}' for value in solo)
    ]
    assert len(rows) == number
    for title, (dose, pull, *gains) in rows.items():
        record, = records(ROWS[title], study, 1)
        found = [record['last'][f'{name}/top1'] for name in networks]
        assert gains == [
            f'{value - base:+.2f}' for value, base in zip(found, solo)
        ], title
        assert dose == f'{np.mean(record["kd_weight"]):.2f}', title
        ends = []
        for course in record['kd_ratio'].values():
            on = [ratio for ratio in course if ratio > 0]
            third = -(-len(on) // 3)
            ends.append((np.mean(on[:third]), np.mean(on[-third:])))
        first, last = np.mean(ends, axis=0)
        assert pull == f'{first:.2f} to {last:.2f}', title
