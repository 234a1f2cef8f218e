"""The tables of docs/results.md over several studies, from their runs."""
import json
from pathlib import Path

import numpy as np
from scipy import stats

from mcod_plugin.compare.contrasts import contrast_table, text_of
from mcod_plugin.compare.statistics import TwoWay
from mcod_plugin.compare.study import read_study
from mcod_plugin.runs.record import dose

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / 'docs' / 'results'
STUDIES = ROOT / 'benchmarks' / 'cpu'

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
# On the test images, where networks overfit.
TEST = 'data_poor_cifar100'
TESTED = {
    '`mcod`': 'mcod',
    'always on': 'always_on',
    'always on, weight of 0.5': 'on_w05',
    '`mcod_constant`': 'mcod_constant',
    '`on_off`': 'on_off',
}
# Trained after the pairs of methods were declared.
NEW_SEEDS = range(3, 8)
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


def accuracies(study, what, seeds=None):
    """By method and seed, of all seeds or of some."""
    found = {}
    for method, runs in records(study).items():
        first = next(iter(runs.values()))
        names = {BRANCHES: first['branches'], 'ensemble': []}.get(what, [what])
        # A frozen branch is not trained by the method.
        if set(names) <= set(first['train_loss']):
            found[method] = {
                seed: top1(record, what)
                for seed, record in runs.items()
                if seeds is None or seed in seeds
            }
    return {method: values for method, values in found.items() if values}


def gains(study, what, seeds=None):
    """Over solo: by method the difference and the number of seeds."""
    values = accuracies(study, what, seeds)
    model = TwoWay(values)
    return {
        method: (model.difference(method, 'solo'), len(runs))
        for method, runs in values.items() if method != 'solo'
    }


def answers(study, question, what=BRANCHES, seeds=None):
    """By pair of a question the difference and p, adjusted for the pairs, and
    whether they are level."""
    path, = STUDIES.rglob(f'{study}.py')
    asked = read_study(str(path)).contrasts[question]
    table = contrast_table('', accuracies(study, what, seeds), asked)
    if table is None:
        return dict.fromkeys(asked, '-')
    found, (_, _, rows) = {}, table
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


def pairs(study, *questions, new_seeds=None):
    """A row for each pair of some questions: the dose of both, and the
    differences of the mean of the branches, of it by new seeds alone, and of
    the ensemble."""
    runs = records(study)
    for question in questions:
        columns = [answers(study, question)]
        if new_seeds:
            columns.append(answers(study, question, seeds=new_seeds))
        columns.append(answers(study, question, 'ensemble'))
        for pair in columns[0]:
            doses = [dosed(runs, name) for name in pair]
            yield [
                '`{}` - `{}`'.format(*pair), ', '.join(dict.fromkeys(doses)),
                *(column[pair] for column in columns)
            ]


def cell(gain, bold=False):
    """A gain with its interval if there are several seeds."""
    difference, seeds = gain
    value, *interval = text_of(difference).split(' ', 1)
    if bold:
        value = f'**{value}**'
    return ' '.join([value, *interval, f'({seeds})'])


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
    columns = [
        gains(TEST, what) for what in ('resnet', 'vgg', BRANCHES, 'ensemble')
    ]
    runs = records(TEST)
    for title, method in TESTED.items():
        yield [
            title, dosed(runs, method),
            *(cell(column[method]) for column in columns)
        ]


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
    yield markdown(
        ['', 'dose', 'ResNet-20', 'VGG-11', 'mean of both', 'ensemble'],
        tested())
    yield markdown(['', 'at most', 'on average'], regrets())
    yield markdown(['', 'first third', 'last third'], pulls(DEFAULT))
    yield markdown(
        ['', '10 classes, few steps', '100 classes, few images'],
        contrasts('whether a slow start helps', 'balance_10_few',
                  'balance_100_poor'))
    yield markdown(['', 'dose', 'mean of both networks', 'ensemble'],
                   pairs('balance_100_poor', 'when to distil, at one dose',
                         'whether the dose matters'))
    yield markdown(
        ['', 'dose', 'mean of both networks', 'new seeds alone', 'ensemble'],
        pairs(TEST, 'whether it helps', 'which schedule',
              'when to distil, at one dose', new_seeds=NEW_SEEDS))
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
