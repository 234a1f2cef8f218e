"""The tables of docs/results.md over several studies, from their runs."""
import json
from pathlib import Path

import numpy as np
from scipy import stats

from mcod_plugin.compare.contrasts import contrast_table
from mcod_plugin.compare.statistics import TwoWay
from mcod_plugin.compare.study import read_study
from mcod_plugin.runs.record import dose

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / 'docs' / 'results'
STUDIES = ROOT / 'benchmarks' / 'cpu' / 'balance'

# From few classes and few steps to many and to larger networks.
CELLS = {
    'digits': 'balance_digits',
    '10 classes, few steps': 'balance_10_few',
    '10 classes, more steps': 'balance_10_long',
    '10 classes, few images': 'balance_10_poor',
    '20 classes, few steps': 'balance_20_few',
    '20 classes, more steps': 'balance_20_long',
    '20 classes, few images': 'balance_20_poor',
    '100 classes, few steps': 'balance_100_few',
    '100 classes, more steps': 'balance_100_long',
    '100 classes, few images': 'balance_100_poor',
    '100 classes, few images, larger networks': 'tuning_cifar100',
}
SCHEDULES = ('mcod_constant', 'mcod', 'mcod_faster', 'slow_start_slower',
             'slow_start')
# Of the study of 100 classes with few images.
OTHERS = {
    '`mcod`, for comparison': 'mcod',
    '`slow_start`, for comparison': 'slow_start',
    'always on, for comparison': 'always_on',
    'alone, twice as many epochs': 'solo_twice',
    'alone, label smoothing': 'solo_smooth',
    'alone, moving average of the weights': 'solo_ema',
    'alone, CutMix': 'solo_cutmix',
    '`mcod` with CutMix': 'mcod_cutmix',
    'always on with CutMix': 'always_on_cutmix',
    'always on up to 80 % of the run': 'release',
    'views of their own, always on': 'views',
    'averaged teacher, always on': 'averaged',
    'standardised logits, always on': 'standardized',
    'hidden features (FitNet-like)': 'features',
    'DKD': 'dkd',
    'DKD from 30 % of the run on': 'dkd_late',
    'DIST from the first epoch on': 'dist_at_once',
    'DIST (its method begins at 30 % of the run)': 'dist',
}
BRANCHES = 'branches'
DEFAULT = 'mcod'


def records(study, method=None):
    """Those of a study, or of one of its methods, by method and seed."""
    found = {}
    for path in sorted((RESULTS / study).glob('*_seed*.json')):
        name, seed = path.stem.rsplit('_seed', 1)
        if method in (None, name):
            found.setdefault(name, {})[int(seed)] = json.loads(
                path.read_text())
    return found


def top1(record, what):
    """Of the mean of the branches, of one of them, or of the ensemble."""
    names = record['branches'] if what == BRANCHES else [what]
    return np.mean([record['last'][f'{name}/top1'] for name in names])


def accuracies(study, what):
    """By method and seed."""
    return {
        method: {seed: top1(record, what)
                 for seed, record in runs.items()}
        for method, runs in records(study).items()
        # A frozen branch is not trained by the method.
        if what in (BRANCHES, 'ensemble', *runs[0]['train_loss'])
    }


def gains(study, what):
    """Over solo: by method the difference and the number of seeds."""
    values = accuracies(study, what)
    model = TwoWay(values)
    return {
        method: (model.difference(method, 'solo'), len(runs))
        for method, runs in values.items() if method != 'solo'
    }


def answers(study, question, what=BRANCHES):
    """By pair of a question the difference and p, adjusted for the pairs, and
    whether they are level."""
    asked = read_study(str(STUDIES / f'{study}.py')).contrasts[question]
    _, _, rows = contrast_table('', accuracies(study, what), asked)
    found = {}
    for pair, (_, text, _, _, p, finding) in zip(asked, rows):
        if p != '-':
            text += f', p {p}' if p.startswith('<') else f', p = {p}'
        found[pair] = text + ', level' * (finding == 'level')
    return found


def contrasts(question, *studies):
    """A row for each pair of a question, a cell for each study, of the mean of
    the branches."""
    columns = [answers(study, question) for study in studies]
    for first, second in columns[0]:
        yield [
            f'`{first}` - `{second}`',
            *(column[first, second] for column in columns)
        ]


def dosed(runs, method):
    """The dose of a method."""
    _, found = dose(next(iter(runs[method].values())))
    return f'{found:.2f}'


def at_one_dose(study):
    """A row for each pair of schedules that distil as much: the dose, and the
    differences of the mean of the branches and of the ensemble."""
    runs = records(study)
    for question in ('when to distil, at one dose',
                     'whether the dose matters'):
        both = [answers(study, question, what)
                for what in (BRANCHES, 'ensemble')]
        for pair in both[0]:
            doses = [dosed(runs, name) for name in pair]
            yield [
                '`{}` - `{}`'.format(*pair), ', '.join(dict.fromkeys(doses)),
                *(found[pair] for found in both)
            ]


def cell(gain, bold=False):
    """A gain with its interval if there are several seeds."""
    difference, seeds = gain
    mark = '**' if bold else ''
    text = f'{mark}{difference.value:+.2f}{mark}'
    interval = difference.interval() if seeds > 1 else None
    if interval:
        text += ' [{:.2f}, {:.2f}]'.format(*interval)
    return f'{text} ({seeds})'


def grid(what, default):
    """A row for each study, a cell for each schedule."""
    for title, study in CELLS.items():
        found = gains(study, what)
        yield [
            title, *(cell(found[name], name == default) if name in
                     found else '' for name in SCHEDULES)
        ]


def everywhere():
    """The gains of the mean of the branches by row, of the schedules that
    were tried in every study."""
    found = {
        title: {
            name: gain.value
            for name, (gain, _) in gains(study, BRANCHES).items()
        }
        for title, study in CELLS.items()
    }
    names = [
        name for name in SCHEDULES
        if all(name in values for values in found.values())
    ]
    return {
        title: {name: values[name]
                for name in names}
        for title, values in found.items()
    }


def regrets():
    """By schedule how far it is below the best one of a row, at most and on
    average."""
    rows = everywhere().values()
    for name in next(iter(rows)):
        lost = [max(values.values()) - values[name] for values in rows]
        yield [f'`{name}`', f'{max(lost):.2f}', f'{np.mean(lost):.2f}']


def lead(method, other):
    """By how much a schedule is better over all rows, as a text with its
    interval, in which rows are what repeats."""
    values = [row[method] - row[other] for row in everywhere().values()]
    low, high = stats.t.interval(
        .95, len(values) - 1, np.mean(values), stats.sem(values))
    return f'{np.mean(values):+.2f} [{low:.2f}, {high:.2f}]'


def tested():
    """A row for each schedule on the test images, where networks overfit."""
    study = 'data_poor_cifar100'
    columns = [gains(study, what) for what in ('resnet', 'vgg', 'ensemble')]
    for method in ('mcod_constant', 'mcod', 'always_on'):
        yield [f'`{method}`', *(cell(column[method]) for column in columns)]


def others():
    """A row for each other method with its dose and gains."""
    runs = records('balance_100_poor')
    columns = [
        gains('balance_100_poor', what)
        for what in ('resnet', 'vgg', BRANCHES, 'ensemble')
    ]
    for title, method in OTHERS.items():
        if method in runs:
            yield [
                title, dosed(runs, method),
                *(cell(column[method]) for column in columns)
            ]


def pulls(method):
    """A row for each study: the ``kd_ratio`` of both networks, in the first
    and in the last third of what distils, seed 0."""
    for title, study in CELLS.items():
        runs = records(study, method)
        if not runs or 'kd_ratio' not in runs[method][0]:
            continue
        ends = []
        for course in runs[method][0]['kd_ratio'].values():
            on = [ratio for ratio in course if ratio > 0]
            third = -(-len(on) // 3)
            ends.append((np.mean(on[:third]), np.mean(on[-third:])))
        yield [title, *(f'{value:.2f}' for value in np.mean(ends, 0))]


def markdown(header, rows):
    lines = [header, ['---'] * len(header), *rows]
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


HEADER = ['', *(f'`{name}`' for name in SCHEDULES)]


def tables():
    """All tables of the page, as they stand there."""
    yield markdown(HEADER, grid(BRANCHES, DEFAULT))
    yield markdown(HEADER, grid('ensemble', DEFAULT))
    yield markdown(['', 'ResNet-20', 'VGG-11', 'ensemble'], tested())
    yield markdown(['', 'at most', 'on average'], regrets())
    yield markdown(['', 'first third', 'last third'], pulls(DEFAULT))
    yield markdown(
        ['', '10 classes, few steps', '100 classes, few images'],
        contrasts('whether a slow start helps', 'balance_10_few',
                  'balance_100_poor'))
    yield markdown(['', 'dose', 'mean of both networks', 'ensemble'],
                   at_one_dose('balance_100_poor'))
    yield markdown(
        ['', 'dose', 'ResNet-8', 'VGG-11', 'mean of both', 'ensemble'],
        others())
    yield markdown(
        ['', 'mean of both networks'],
        contrasts('how it compares with what helps alone',
                  'balance_100_poor'))


if __name__ == '__main__':
    print('\n\n'.join(tables()))
    for pair in (('slow_start', 'mcod'), ('mcod', 'mcod_constant')):
        print('\n', *pair, lead(*pair))
