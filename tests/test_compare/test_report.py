import re

import numpy as np
import pytest
from mmengine.config import Config
from scipy import stats

from mcod_plugin.compare.plan import Run
from mcod_plugin.compare.report import Report, insert, write_report
from mcod_plugin.compare.statistics import TwoWay, holm, seeds_needed
from mcod_plugin.compare.study import Method, Study
from mcod_plugin.errors import ConfigError
from .runs import make_results, make_run, write_run

SOLO = [(40., 50.), (41., 52.), (43., 51.)]
MCOD = [(41.2, 53.), (42.4, 55.1), (44.1, 54.1)]


@pytest.fixture
def results():
    return make_results(solo=SOLO, mcod=MCOD)


def tables(text):
    """The tables of a Markdown text: cells by row and column, by the word in
    bold with which the line before begins."""
    found = {}
    for block, rows in zip(text.split('\n\n'), text.split('\n\n')[1:]):
        if rows.startswith('|'):
            header, _, *lines = [[
                cell.strip() for cell in line.strip('|').split('|')
            ] for line in rows.split('\n')]
            found[block.split('**')[1]] = {
                line[0].strip('`'): dict(zip(header[1:], line[1:]))
                for line in lines
            }
    return found


def test_accuracy(results):
    found = tables(Report(results, 'solo').to_markdown())
    assert found['Top-1 accuracy'] == {
        'solo` (baseline)': {
            'a': '41.33 ± 1.53',
            'b': '51.00 ± 1.00',
            'ensemble': '56.00 ± 1.00',
            'disagreement': '31.00 ± 1.00',
            'ECE': '**4.62 ± 0.10**',
            'distilled': '50 %, 0.25',
            'seeds': '3'
        },
        'mcod': {
            'a': '**42.57 ± 1.46**',
            'b': '**54.07 ± 1.05**',
            'ensemble': '**59.07 ± 1.05**',
            'disagreement': '31.00 ± 1.00',
            'ECE': '4.83 ± 0.11',
            'distilled': '50 %, 0.25',
            'seeds': '3'
        }
    }


def test_gain(results):
    found = tables(Report(results, 'solo').to_markdown())['Gain']
    assert list(found) == ['mcod']
    solo, mcod = np.array(SOLO), np.array(MCOD)
    columns = {
        'a': (mcod[:, 0], solo[:, 0]),
        'b': (mcod[:, 1], solo[:, 1]),
        'ensemble': (mcod.max(1), solo.max(1)),
        'mean of branches': (mcod.mean(1), solo.mean(1)),
    }
    for name, (values, base) in columns.items():
        interval = stats.ttest_rel(values, base).confidence_interval()
        assert found['mcod'].pop(name) == (
            f'**{np.mean(values - base):+.2f} [{interval.low:.2f}, '
            f'{interval.high:.2f}]**')
    assert found['mcod'] == dict(pairs='3')


def test_top5_best_epoch_and_time(results):
    found = tables(Report(results, 'solo').to_markdown())
    assert found['Top-5 accuracy']['mcod'] == dict(
        a='**62.57 ± 1.46**',
        b='**74.07 ± 1.05**',
        ensemble='**79.07 ± 1.05**')
    assert found['Best epoch']['mcod'] == {
        'a': '**43.57 ± 1.46**',
        'b': '**55.07 ± 1.05**',
        'ensemble': '**60.07 ± 1.05**',
        'minutes per run': '2.00 ± 1.00'
    }


def test_pull_of_the_distillation(results):
    """Epochs 2, 4, 6 and so on distil; a third of seven is three."""
    assert 'Pull of the distillation' not in Report(results,
                                                    'solo').to_markdown()
    course = [0., .1, 0., .2, 0., .3, 0., .4, 0., .5, 0., .6, 0., .7]
    for seed, run in enumerate(results['mcod']):
        run['kd_ratio'] = dict(a=[(1 + seed) * x for x in course], b=[0., .2])
    for run in results['solo']:
        run['kd_ratio'] = {}
    found = tables(Report(results, 'solo').to_markdown())
    # .2 and .6, times 1, 2 and 3
    assert found['Pull of the distillation'] == dict(
        mcod=dict(a='0.4 to 1.2', b='0.2 to 0.2'))
    results['mcod'][1]['kd_ratio'] = dict(b=[.1])
    found = tables(Report(results, 'solo').to_markdown())
    assert found['Pull of the distillation'] == dict(
        mcod=dict(a='-', b='0.167 to 0.167'))


def test_heading(results):
    results['mcod'][0].update(threads=2, dirty=True, commit='fedcba9876')
    results['mcod'][1].update(device='a GPU', commit=None)
    text = Report(results, 'solo').to_markdown()
    assert text.split('\n')[0] == (
        '2 epochs, batch size 10, float32, seeds 0, 1, 2; on some CPU and '
        'a GPU (1 and 2 threads); torch 9.9, commit 0123456 and fedcba9 with '
        'changes.')
    assert text.endswith('- The device is not the same for all runs: '
                         'some CPU, but a GPU in mcod_seed1.')


def test_one_seed():
    results = make_results(solo=SOLO[:1], mcod=MCOD[:1])
    text = Report(results, 'solo').to_markdown()
    assert '±' not in text and 'interval' not in text and '[' not in text
    found = tables(text)
    assert found['Top-1 accuracy']['mcod']['a'] == '41.20'
    assert found['Gain']['mcod'] == {
        'a': '+1.20',
        'b': '+3.00',
        'ensemble': '+3.00',
        'mean of branches': '+2.10',
        'pairs': '1'
    }
    assert ', seed 0; on some CPU (1 thread);' in text


def test_missing_runs():
    results = make_results(
        solo=SOLO,
        mcod=[None, *MCOD[1:]],
        dml=[],
        ramp=SOLO,
        on_off=[None, *MCOD[1:]])
    report = Report(results, 'solo')
    text = report.to_markdown()
    found = tables(text)
    assert found['Top-1 accuracy']['mcod']['seeds'] == '2 of 3'
    assert found['Gain']['mcod']['pairs'] == '2'
    # against solo's runs of the two seeds
    assert found['Gain']['mcod']['a'].startswith('+1.25 [')
    assert all('dml' not in table for table in found.values())
    # not bold, it is of fewer seeds
    assert found['Top-1 accuracy']['mcod']['a'] == '43.25 ± 1.20'
    assert found['Top-1 accuracy']['ramp']['a'] == '41.33 ± 1.53'
    notes = ('Missing: seed 0 of mcod, on_off.',
             'Missing: seeds 0, 1, 2 of dml.')
    for note in notes:
        assert f'\n- {note}' in text
        assert f'\n{note}' in report.to_text()


def test_seeds_that_are_asked_for(results):
    text = Report(results, 'solo', seeds=[2, 1, 7]).to_markdown()
    found = tables(text)
    assert found['Top-1 accuracy']['mcod']['seeds'] == '2 of 3'
    assert found['Top-1 accuracy']['mcod']['a'] == '43.25 ± 1.20'
    assert '**4' not in text
    assert '- Missing: seed 7 of solo, mcod.' in text


def test_missing_baseline():
    results = make_results(solo=[], mcod=MCOD)
    found = tables(Report(results, 'solo').to_markdown())
    assert list(found) == ['Top-1 accuracy', 'Top-5 accuracy', 'Best epoch']
    assert list(found['Top-1 accuracy']) == ['mcod']
    assert found['Top-1 accuracy']['mcod']['a'] == '42.57 ± 1.46'


def test_runs_without_a_partner():
    results = make_results(
        solo=[SOLO[0], None, None], mcod=[None, *MCOD[1:]], dml=MCOD)
    found = tables(Report(results, 'solo').to_markdown())
    assert list(found['Top-1 accuracy']) == ['solo` (baseline)', 'mcod', 'dml']
    # no seed of mcod has a run of solo
    assert list(found['Gain']) == ['dml']


def test_missing_metrics():
    results = make_results(solo=SOLO, mcod=MCOD)
    for runs in results.values():
        for run in runs:
            run['last'] = {
                key: value
                for key, value in run['last'].items() if key.endswith('top1')
            }
    found = tables(Report(results, 'solo').to_markdown())
    assert list(found) == ['Top-1 accuracy', 'Gain', 'Best epoch']
    assert list(found['Top-1 accuracy']['mcod']) == [
        'a', 'b', 'ensemble', 'distilled', 'seeds'
    ]


def test_no_bold_gain_where_the_baseline_is_best():
    results = make_results(solo=MCOD, mcod=SOLO, dml=SOLO)
    found = tables(Report(results, 'solo').to_markdown())
    assert '**' not in str(found['Gain'])
    assert found['Top-1 accuracy']['solo` (baseline)']['a'].startswith('**')


def test_nothing_is_bold_that_is_no_better():
    results = make_results(solo=SOLO, mcod=MCOD, dml=MCOD)
    found = tables(Report(results, 'solo').to_markdown())['Top-1 accuracy']
    assert found['mcod']['a'] == found['dml']['a'] == '42.57 ± 1.46'
    # another method that is as good is enough
    results['dml'] = results['dml'][:2]
    found = tables(Report(results, 'solo').to_markdown())['Top-1 accuracy']
    assert found['mcod']['a'] == '**42.57 ± 1.46**'


def test_contrasts(results):
    results.update(make_results(dml=[(a + .1, b) for a, b in MCOD]))
    pairs = [('mcod', 'solo'), ('mcod', 'dml')]
    text = Report(results, 'solo', contrasts={'': pairs}).to_markdown()
    values = {
        method: {
            run['seed']: (run['last']['a/top1'] + run['last']['b/top1']) / 2
            for run in runs
        }
        for method, runs in results.items()
    }
    model = TwoWay(values)
    found = tables(text)['Contrasts of the mean of branches']
    assert list(found) == ['mcod` - `solo', 'mcod` - `dml']
    p = [model.difference(*pair).p_value() for pair in pairs]
    for (method, other), row, p, adjusted in zip(pairs, found.values(), p,
                                                 holm(p)):
        difference = model.difference(method, other)
        low, high = difference.interval()
        assert row.pop('difference') == (
            f'{difference.value:+.2f} [{low:.2f}, {high:.2f}]')
        alone = TwoWay({name: values[name] for name in (method, other)})
        low, high = alone.difference(method, other).interval()
        assert row.pop('pair alone') == f'[{low:.2f}, {high:.2f}]'
        assert row.pop('p') == (f'{p:.3f}' if p >= .001 else '< 0.001')
        assert row.pop('adjusted p') == (f'{adjusted:.3f}'
                                         if adjusted >= .001 else '< 0.001')
    assert found['mcod` - `solo'] == dict(finding='better')
    assert found['mcod` - `dml'] == dict(finding='level')
    assert 'Contrasts of the ensemble' in text
    needed = seeds_needed(model.sd, 3, .3)
    assert f'has a standard deviation of {model.sd:.2f}' in text
    assert f'to see 0.3 points takes {needed} seeds' in text


def test_contrasts_by_question(results):
    """Those of a question are one family."""
    results.update(make_results(dml=[(a + 1, b) for a, b in MCOD]))
    asked = {'who teaches': [('mcod', 'solo'), ('dml', 'solo')],
             'how': [('mcod', 'dml')]}
    text = Report(results, 'solo', contrasts=asked).to_markdown()
    first, second = re.findall(
        r'\*\*Contrasts of the mean of branches\*\* that the study declares '
        r'to tell (.*?), in percentage.*?\n\n'
        r'(.*?)\n\n', text, re.DOTALL)
    assert [first[0], second[0]] == list(asked)
    assert len(first[1].splitlines()) == 4
    row, = second[1].splitlines()[2:]
    cells = [cell.strip() for cell in row.strip('| ').split('|')]
    assert cells[0] == '`mcod` - `dml`'
    assert cells[3] == cells[4]  # p is that of one test
    assert text.count('**Contrasts of the ensemble** that') == 2


def test_contrasts_that_are_open(results):
    """A pair that is not there yet, one of a single seed, and one of which
    little is known."""
    results.update(
        make_results(
            dml=[(30., 60.), (60., 30.), (50., 41.)],
            late=[],
            once=[(41., 53.)]))
    text = Report(
        results,
        'solo',
        contrasts={
            '': [('dml', 'solo'), ('late', 'solo'), ('once', 'solo')]
        }).to_markdown()
    found = tables(text)['Contrasts of the mean of branches']
    assert list(found) == ['dml` - `solo', 'late` - `solo', 'once` - `solo']
    row = found['dml` - `solo']
    assert row['finding'] == 'open'
    # The pairs that are to come count as well.
    assert float(row['adjusted p']) == pytest.approx(
        min(1., 3 * float(row['p'])), abs=.0015)
    assert set(found['late` - `solo'].values()) == {'-'}
    once = found['once` - `solo']
    assert '[' not in once.pop('difference') and set(once.values()) == {'-'}
    one = make_results(solo=SOLO[:1], mcod=MCOD[:1])
    assert 'Contrasts' not in Report(
        one, 'solo', contrasts={'': [('mcod', 'solo')]}).to_markdown()


def test_frozen_branch():
    results = make_results(solo=SOLO, mcod=MCOD)
    results['kd'] = [
        make_run('kd', seed, (a + 9, b + 9), train_loss=dict(b=[1.]))
        for seed, (a, b) in enumerate(SOLO)
    ]
    text = Report(results, 'solo').to_markdown()
    found = tables(text)
    assert found['Top-1 accuracy']['kd']['a'] == '50.33 ± 1.53 (frozen)'
    assert found['Top-1 accuracy']['kd']['b'] == '**60.00 ± 1.00**'
    # that of the trained branch alone, which is no mean to compare
    assert found['Top-1 accuracy']['kd']['ECE'] == '6.00 ± 0.10'
    assert found['Gain']['kd']['a'] == 'frozen'
    # the noise of b is that of all three, which have it trained
    model = TwoWay({
        method: {
            run['seed']: run['last']['b/top1']
            for run in runs
        }
        for method, runs in results.items()
    })
    low, high = model.difference('kd', 'solo').interval()
    assert found['Gain']['kd']['b'] == f'**+9.00 [{low:.2f}, {high:.2f}]**'
    assert found['Gain']['kd']['mean of branches'] == '+9.00 [9.00, 9.00]'
    assert found['Gain']['mcod']['mean of branches'].startswith('**')
    assert 'A frozen branch' in text


def test_results_by_another_config(results):
    hashes = {
        f'{method}_seed{seed}': '0'
        for method in results
        for seed in range(3)
    }
    hashes.update(mcod_seed0='1', mcod_seed2='2')
    report = Report(results, 'solo', hashes=hashes)
    for text in (report.to_markdown(), report.to_text()):
        assert ('Made by another config than the one that the study now has: '
                'mcod_seed0, mcod_seed2.') in text
    hashes.update(mcod_seed0='0', mcod_seed2='0')
    for given in (None, hashes):
        text = Report(results, 'solo', hashes=given).to_markdown()
        assert 'another config' not in text


def test_one_method():
    text = Report(make_results(solo=SOLO), 'solo').to_markdown()
    assert 'Gain' not in tables(text)
    assert 'bold' not in text


def test_text_for_a_terminal(results):
    text = Report(results, 'solo').to_text()
    rows = [[cell.strip() for cell in line.strip('│').split('│')]
            for line in text.split('\n') if line.startswith('│')]
    assert rows[0][:3] == ['solo (baseline)', '41.33 ± 1.53', '51.00 ± 1.00']
    assert [row[0] for row in rows] == ['solo (baseline)', 'mcod', 'mcod']
    assert '*' not in text and '`' not in text
    assert 'Top-5' not in text


def test_wide_tables_fit_a_terminal():
    solo = [(40., 50., 60., 70.), (41., 50.5, 60., 69.5)]
    others = [tuple(value + 0.5 for value in values) for values in solo]
    results = make_results(solo=solo, kdcl_min_logit=others[::-1])
    text = Report(results, 'solo').to_text()
    tables = [line for line in text.split('\n') if line[:1] in '┃│┏└']
    assert max(map(len, tables)) <= 120
    # whole cells, one part above the other
    assert '…' not in text
    rows = [[cell.strip() for cell in line.strip('│').split('│')]
            for line in text.split('\n') if line.startswith('│')]
    assert rows[0][:3] == ['solo', '40.50', '50.25']
    assert rows[1][:3] == ['(baseline)', '± 0.71', '± 0.35']


def test_errors(results):
    with pytest.raises(
            ConfigError, match='baseline must be one of mcod, solo'
            '; got .best.'):
        Report(results, 'best')
    with pytest.raises(ConfigError, match='no run has finished yet'):
        Report(dict(solo=[]), 'solo')


TEXT = """\
# Results

<!-- study: small -->
an old report
<!-- /study: small -->

<!-- study: smaller -->
<!-- /study: smaller -->
"""


def test_insert():
    text = insert(TEXT, 'small', 'new\n\nlines')
    assert text == TEXT.replace('an old report', '\nnew\n\nlines\n')
    assert insert(text, 'small', 'new\n\nlines') == text
    # a report is text, not a pattern
    assert '\n\\1 \\g<0>\n' in insert(TEXT, 'smaller', '\\1 \\g<0>')


@pytest.mark.parametrize('text,message', [
    (TEXT.replace('<!-- study: small -->', ''),
     '<!-- study: small --> once in its file; it is there 0 times'),
    (TEXT.replace('<!-- /study: small -->', ''),
     '<!-- /study: small --> once in its file; it is there 0 times'),
    (TEXT + TEXT, 'it is there 2 times'),
    ('<!-- /study: small --><!-- study: small -->', 'must stand before'),
])
def test_insert_without_place(text, message):
    with pytest.raises(ConfigError, match=message):
        insert(text, 'small', 'new')


def test_runs_that_have_diverged(results):
    """They are named, and are in no mean and no pair."""
    good = Report(results, 'solo').to_markdown()
    failed = make_run('mcod', 3, (90., 90.))
    failed['train_loss']['a'][1] = float('nan')
    lost = make_run(
        'solo', 3, (90., 90.), diverged=dict(b=dict(epoch=1, iteration=7)))
    results['mcod'].append(failed)
    results['solo'].append(lost)
    report = Report(results, 'solo')
    found = tables(report.to_markdown())
    for title, table in tables(good).items():
        for method, row in table.items():
            for column, cell in row.items():
                given = found[title][method][column].strip('*')
                if column == 'seeds':
                    assert given == '3 of 4'
                else:
                    assert given == cell.strip('*'), (title, method, column)
    for text in (report.to_markdown(), report.to_text()):
        assert ('Failed: mcod_seed3 (the loss of a is nan in epoch 2).'
                in text)
        assert 'Failed: solo_seed3 (b diverged in epoch 1, iteration 7).' in (
            text)
        assert 'Missing' not in text


def test_all_runs_have_diverged():
    run = make_run()
    run['last']['a/top1'] = float('nan')
    with pytest.raises(ConfigError, match=r'Failed: solo_seed0 \(a/top1 is'):
        Report(dict(solo=[run]), 'solo')


METHODS = ('solo', 'mcod')


@pytest.fixture
def make_study(tmp_path):
    """Makes a study with a result of each of its runs, and those runs."""
    folder = tmp_path / 'results'
    folder.mkdir()
    for method in METHODS:
        write_run(folder, make_run(method))

    def make(report=None, config_hash='0'):
        methods = [Method(name, '', {}) for name in METHODS]
        runs = [
            Run(f'{name}_seed0', name, 0, Config(), config_hash, 'work',
                str(folder / f'{name}_seed0.json'), []) for name in METHODS
        ]
        return Study('small', '', False, {}, methods, [0], 'solo', [],
                     str(folder), report and str(report)), runs

    return make


def test_beside_the_results(make_study, tmp_path):
    path = tmp_path / 'results' / 'report.md'
    told = write_report(*make_study())
    text = path.read_text()
    assert told.endswith(f'The report is in {path}')
    for name in ('curves', 'gain', 'diversity', 'schedule'):
        assert f'![{name.capitalize()} of the study small]({name}.png)' in text
        assert (path.parent / f'{name}.png').is_file()
    for words in (told, text):
        assert 'Top-1 accuracy' in words
        assert 'another config' not in words
    assert not list(tmp_path.rglob('*.part'))


def test_written_results_by_another_config(make_study, tmp_path):
    study, runs = make_study()
    other = make_study(config_hash='1')[1]
    told = write_report(study, [runs[0], other[1]])
    text = (tmp_path / 'results' / 'report.md').read_text()
    for words in (told, text):
        assert ('Made by another config than the one that the study now has: '
                'mcod_seed0.') in words


def test_file_without_a_place_for_it(make_study, tmp_path):
    path = tmp_path / 'notes.md'
    path.write_text('# Notes\n')
    with pytest.raises(ConfigError, match='<!-- study: small -->'):
        write_report(*make_study(path))
    assert path.read_text() == '# Notes\n'
    assert not list(tmp_path.rglob('*.png'))


def test_file_that_is_no_text(make_study, tmp_path):
    path = tmp_path / 'notes.md'
    path.write_bytes(b'\xff')
    with pytest.raises(ConfigError, match='notes.md cannot be read: .* UTF-8'):
        write_report(*make_study(path))


@pytest.mark.parametrize('forbid, words', [
    ('folder', r'^results \S+: no such file .* \(Permission denied\)$'),
    ('file', r'^report \S+notes.md must not be written to$'),
])
def test_without_permission(make_study, tmp_path, monkeypatch, forbid, words):
    """Nothing is written at all. Root has all permissions."""
    path = tmp_path / 'notes.md'
    path.write_text('<!-- study: small -->\n<!-- /study: small -->\n')

    def refuse(*args, **kwargs):
        raise PermissionError(13, 'Permission denied')

    if forbid == 'folder':
        monkeypatch.setattr('tempfile.NamedTemporaryFile', refuse)
    else:
        monkeypatch.setattr('os.access', lambda place, mode: place !=
                            str(path))
    with pytest.raises(ConfigError, match=words):
        write_report(*make_study(path))
    assert not list(tmp_path.rglob('*.png'))
