import copy
import math

import pytest

from mcod_plugin.compare.results import (all_runs, best, differences,
                                         divergence, frozen_branches,
                                         kd_ratios, last,
                                         of_other_configs, read_results,
                                         trained_branches)
from mcod_plugin.errors import ConfigError
from .runs import make_results, make_run, write_run


def test_read(tmp_path):
    for method, seed in (('solo', 10), ('solo', 9), ('mcod', 2),
                         ('mcod_seed1', 3), ('other', 0)):
        write_run(tmp_path, make_run(method, seed))
    (tmp_path / 'solo_seed11.json.part').write_text('{')
    (tmp_path / 'notes.json').write_text('[]')
    found = read_results(str(tmp_path), ['mcod_seed1', 'solo', 'dml', 'mcod'])
    assert list(found) == ['mcod_seed1', 'solo', 'dml', 'mcod']
    assert found['solo'] == [make_run('solo', 9), make_run('solo', 10)]
    assert found['dml'] == []
    assert [run['seed'] for run in all_runs(found)] == [3, 9, 10, 2]
    found = read_results(str(tmp_path), ['solo'], seeds=[1, 10])
    assert [run['seed'] for run in found['solo']] == [10]


def test_no_folder_yet(tmp_path):
    assert read_results(str(tmp_path / 'none'), ['a']) == {'a': []}


def test_what_may_be_missing(tmp_path):
    run = make_run(commit=None, dirty=None, threads=None, study=None)
    for key in list(run['last']):
        if key.endswith(('top5', 'ece', 'disagreement')):
            del run['last'][key], run['curves'][key]
    write_run(tmp_path, run)
    assert read_results(str(tmp_path), ['solo']) == {'solo': [run]}
    assert last([run], 'a/ece') == {}


def put(*keys, value):

    def change(run):
        for key in keys[:-1]:
            run = run[key]
        run[keys[-1]] = value

    return change


def drop(*keys):

    def change(run):
        for key in keys[:-1]:
            run = run[key]
        del run[keys[-1]]

    return change


@pytest.mark.parametrize('change,message', [
    (drop('batch_size'), "'batch_size' is missing"),
    (put('epochs', value='2'), "'epochs' must be of type int; got '2'"),
    (put('epochs', value=True), "'epochs' must be of type int; got True"),
    (put('branches', value=[]), "'branches' must hold names"),
    (put('branches', value=[1]), "'branches' must hold names"),
    (drop('last', 'b/top1'), "'last' lacks 'b/top1'"),
    (put('diverged', value=dict(a=dict(epoch=1))),
     "'diverged' must hold 'epoch' and 'iteration'"),
    (put('last', 'a/ece', value='x'), "'a/ece' in 'last' must be a number"),
    (put('last', 'a/ece', value=True), "'a/ece' in 'last' must be a number"),
    (put('curves', 'a/top1', value=[1.]), "as many numbers for each"),
    (put('curves', 'a/top1', value=[1., None]), "must be a list of numbers"),
    (drop('curves', 'epoch'), "'curves' must hold 'epoch'"),
    (put('kd_weight', value=['1']), "'kd_weight' must be a list of numbers"),
    (put('kd_ratio', value=[.1]), "'kd_ratio' must be of type dict; got "),
    (put('kd_ratio', value=dict(a=['1'])),
     "'kd_ratio of a' must be a list of numbers"),
    (put('train_loss', 'a', value=1.), "'train_loss of a' must be a list"),
    (put('epochs', value=10**400), "'epochs' is out of range; got 1000"),
    (put('last', 'a/ece', value=10**400), "'a/ece' in 'last' must be a num"),
    (put('kd_weight', value=[10**400, 1]), "must be a list of numbers"),
    (put('train_seconds', value=math.nan), "'train_seconds' must be finite"),
    (put('train_seconds', value=10**400), "'train_seconds' is out of range"),
    (put('versions', value=dict(torch=[2])), "'torch' in 'versions' must be"),
    (put('commit', value=1234567), "'commit' must be a text; got 1234567"),
    (put('diverged', value=[1]), "'diverged' must hold 'epoch' and"),
    (put('branches', value=[['a'] * 99] * 99), "'branches' must hold names"),
    (put('seed', value=1), "holds method 'solo' and seed 1, unlike its name"),
    (put('method', value='x'), "holds method 'x' and seed 0, unlike its"),
])
def test_file_that_cannot_be_used(tmp_path, change, message):
    run = copy.deepcopy(make_run())
    change(run)
    path = write_run(tmp_path, run, 'solo_seed0.json')
    with pytest.raises(ConfigError) as info:
        read_results(str(tmp_path), ['solo'])
    text = str(info.value)
    assert text.startswith(f'{path} is no result file: ') and message in text
    assert '\n' not in text and len(text) < len(str(path)) + 400


@pytest.mark.parametrize('change, reason', [
    (put('last', 'ensemble/top1', value=math.nan), 'ensemble/top1 is nan'),
    (put('last', 'b/ece', value=math.inf), 'b/ece is inf'),
    (put('train_loss', 'b', value=[2., math.nan
                                   ]), 'the loss of b is nan in epoch 2'),
    (put('train_loss', 'a', value=[math.inf, 1.
                                   ]), 'the loss of a is inf in epoch 1'),
    (put(
        'diverged',
        value=dict(b=dict(epoch=2, iteration=15, lr=.1)),
    ), 'b diverged in epoch 2, iteration 15'),
    (put('diverged', value={}), None),
    (lambda run: None, None),
])
def test_divergence(tmp_path, change, reason):
    """Told by the record, or by its numbers in one of old form."""
    run = copy.deepcopy(make_run())
    change(run)
    write_run(tmp_path, run)
    [found] = read_results(str(tmp_path), ['solo'])['solo']
    assert divergence(found) == reason


def test_divergence_before_the_first_validation(tmp_path):
    run = copy.deepcopy(make_run())
    run['last']['b/top1'] = math.nan
    write_run(tmp_path, run)
    [found] = read_results(str(tmp_path), ['solo'])['solo']
    assert divergence(found) == 'b/top1 is nan'


@pytest.mark.parametrize('text', ('', '{"method": ', '[1]', '"a"',
                                  '[' * 9999, '{"seed": 1' + '0' * 9999))
def test_file_of_another_kind(tmp_path, text):
    path = tmp_path / 'solo_seed0.json'
    path.write_text(text)
    with pytest.raises(ConfigError, match='solo_seed0.json is no result'):
        read_results(str(tmp_path), ['solo'])


@pytest.mark.parametrize('change,message', [
    (dict(unit='iteration', until=[2], curves={}),
     'unit epochs and iterations'),
    (dict(top1=(1., 2., 3.)), 'branches a, b and a, b, c'),
])
def test_runs_that_cannot_be_compared(tmp_path, change, message):
    write_run(tmp_path, make_run())
    write_run(tmp_path, make_run('mcod', 1, **change))
    with pytest.raises(
            ConfigError,
            match=f'solo_seed0 and mcod_seed1 cannot be compared: {message}'):
        read_results(str(tmp_path), ['solo', 'mcod'])


def test_length(tmp_path):
    """One for all seeds of a method; another method may have another one,
    which is told."""
    write_run(tmp_path, make_run())
    write_run(tmp_path, make_run('twice', 0, epochs=4))
    found = read_results(str(tmp_path), ['solo', 'twice'])
    assert differences(found) == [
        'The length is not the same for all runs: 2 epochs, but 4 epochs in '
        'twice_seed0.'
    ]
    write_run(tmp_path, make_run('twice', 1, epochs=3))
    with pytest.raises(
            ConfigError, match='twice_seed0 and twice_seed1 cannot be '
            'compared: length 4 epochs and 3 epochs'):
        read_results(str(tmp_path), ['solo', 'twice'])


def test_differences():
    results = make_results(solo=[(1, 2)] * 3, mcod=[(1, 2)] * 2)
    assert differences(results) == []
    results['solo'][1]['batch_size'] = 20
    results['mcod'][0]['batch_size'] = 30
    results['mcod'][1]['versions'] = dict(torch='8')
    # not worth a word
    results['mcod'][1]['commit'] = 'another'
    assert differences(results) == [
        'The batch size is not the same for all runs: 10, but 20 in '
        'solo_seed1, 30 in mcod_seed0.',
        'The torch version is not the same for all runs: 9.9, but 8 in '
        'mcod_seed1.'
    ]


def test_frozen_branch():
    runs = [make_run('kd', seed, train_loss=dict(b=[1.])) for seed in (0, 1)]
    assert trained_branches(runs) == ['b']
    assert frozen_branches(runs) == ['a']
    assert trained_branches([]) == frozen_branches([]) == []


def test_last_and_best():
    runs = [make_run(seed=3, top1=(40., 50.)), make_run(seed=5, top1=(1., 4.))]
    assert last(runs, 'b/top1') == {3: 50., 5: 4.}
    assert last(runs, 'a/top1', 'b/top1') == {3: 45., 5: 2.5}
    assert last(runs, 'a/top1', 'none') == last(runs) == {}
    # Whatever a file of old form says of it, it is that of the curves.
    runs[0]['best'] = dict(a=[99., 1])
    assert best(runs, 'a') == {3: 41., 5: 2.}
    assert best(runs, 'none') == {}
    del runs[0]['last']['a/top1']
    assert last(runs, 'a/top1', 'b/top1') == {5: 2.5}


@pytest.mark.parametrize('key', ['precision', 'device'])
def test_each_difference_is_told(key):
    results = make_results(solo=[(1, 2)] * 3)
    results['solo'][1][key] = 'another'
    note, = differences(results)
    assert note.startswith(f'The {key} is not the same for all runs: ')
    assert note.endswith('but another in solo_seed1.')


@pytest.mark.parametrize('losses', [dict(b=[1.]), dict(a=[], b=[1.])])
def test_branch_that_is_frozen_in_one_run(losses):
    runs = [make_run(seed=0), make_run(seed=1, train_loss=losses)]
    assert trained_branches(runs) == ['b']
    assert frozen_branches(runs) == ['a']


def test_of_other_configs():
    results = make_results(solo=[(1, 2)] * 2, mcod=[(1, 2)])
    hashes = dict(solo_seed0='0', solo_seed1='1')
    assert of_other_configs(results, hashes) == ['solo_seed1', 'mcod_seed0']


def test_kd_ratios():
    """Of the epochs that distil, as far as they are numbers."""
    assert kd_ratios(make_run(), 'a') == {}
    run = make_run(kd_ratio=dict(a=[0., .5, math.nan, 2., math.inf]))
    assert kd_ratios(run, 'a') == {2: .5, 4: 2.}
    assert kd_ratios(run, 'b') == {}


def by_iterations(**changes):
    """A run of 20 iterations with three validations."""
    run = make_run(unit='iteration', epochs=None, until=[8, 16, 20])
    run['curves'] = dict(iteration=[8, 16, 20], **{'a/top1': [1., 2., 1.]})
    run.update(
        kd_weight=[0., .5, 1.],
        train_loss=dict(a=[3., 2., 1.], b=[3., 2., 1.]),
        kd_ratio=dict(a=[0., .2, .4]))
    run.update(changes)
    return {key: value for key, value in run.items() if value is not None}


def test_run_that_counts_iterations(tmp_path):
    write_run(tmp_path, by_iterations())
    [run] = read_results(str(tmp_path), ['solo'])['solo']
    assert kd_ratios(run, 'a') == {16: .2, 20: .4}
    assert best([run], 'a') == {0: 2.}
    run['train_loss']['b'][1] = math.inf
    assert divergence(run) == 'the loss of b is inf up to iteration 16'
    run['diverged'] = dict(b=dict(epoch=1, iteration=9))
    assert divergence(run) == 'b diverged in iteration 9'


@pytest.mark.parametrize('change, message', [
    (dict(iterations=None), "'iterations' is missing"),
    (dict(until=None), "'until' is missing"),
    (dict(curves=dict(epoch=[1])), "'curves' must hold 'iteration'"),
    (dict(unit='step'), "'unit' must be epoch or iteration; got 'step'"),
])
def test_iterations_that_are_missing(tmp_path, change, message):
    write_run(tmp_path, by_iterations(**change))
    with pytest.raises(ConfigError, match=message):
        read_results(str(tmp_path), ['solo'])


def test_what_a_run_by_iterations_leaves(tiny_runner, tmp_path):
    """From the run itself to the report and its figures."""
    from mcod_plugin.compare.figures import draw
    from mcod_plugin.compare.report import Report
    for method in ('mcod', 'solo'):
        hooks = [
            dict(
                type='mcod_plugin.DiscontinuousKDHook',
                weight=(1., 1.) if method == 'mcod' else (0., 0.)),
            dict(
                type='mcod_plugin.RunRecordHook',
                out=str(tmp_path / f'{method}_seed3.json'),
                info=dict(method=method, seed=3))
        ]
        tiny_runner(
            method,
            custom_hooks=hooks,
            train_cfg=dict(
                by_epoch=False, max_iters=7, val_interval=3,
                _delete_=True)).train()
    results = read_results(str(tmp_path), ['mcod', 'solo'])
    mcod, = results['mcod']
    # A pass is four iterations, the last of two is distilled.
    assert mcod['until'] == [3, 6, 7] == mcod['curves']['iteration']
    text = Report(results, 'solo').to_markdown()
    assert text.startswith('7 iterations, batch size 16, ')
    assert '**Top-1 accuracy** after the last iteration, in' in text
    assert 'the first and of the last third of the validations that ' in text
    assert ('**Best validation**: the highest top-1 accuracy of all '
            'validations, in percent') in text
    draw(results, 'solo', str(tmp_path / 'figures'))
    assert {'curves.png', 'schedule.png', 'pull.png'} <= {
        path.name
        for path in (tmp_path / 'figures').iterdir()
    }
