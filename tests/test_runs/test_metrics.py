import math

from mcod_plugin.runs.metrics import best_top1, columns, top1


def test_top1_has_the_ensemble_last():
    metrics = {'ensemble/top1': 50., 'ensemble/top5': 80., 'a/top1': 40.}
    assert list(top1(metrics).items()) == [('a', 40.), ('ensemble', 50.)]
    assert top1({'diversity/disagreement': .5}) == {}


def test_columns():
    rows = [{'epoch': 2, 'a/top1': 5.}, {'epoch': 4, 'b/top1': 6.}]
    found = columns(rows)
    assert found['epoch'] == [2, 4]
    assert found['a/top1'][0] == 5. and math.isnan(found['a/top1'][1])
    assert math.isnan(found['b/top1'][0]) and found['b/top1'][1] == 6.
    assert columns([]) == dict(epoch=[])
    assert columns([dict(iteration=7)], 'iteration') == dict(iteration=[7])


def test_best_is_the_first_of_equals():
    found = best_top1({
        'epoch': [2, 4, 6],
        'ensemble/top1': [6., 7., 7.],
        'b/top1': [9., 8., 8.5],
        'b/top5': [10., 20., 30.]
    })
    assert list(found.items()) == [('b', (9., 2)), ('ensemble', (7., 4))]
    assert best_top1({'iteration': [50], 'a/top1': [1.]}) == dict(a=(1., 50))
    assert best_top1({}) == best_top1(dict(epoch=[])) == {}


def test_best_of_what_has_diverged():
    assert best_top1({
        'epoch': [1, 2, 3],
        'a/top1': [math.nan] * 3,
        'b/top1': [math.nan, 7., math.nan],
        'c/top1': [math.nan, 0., math.nan]
    }) == dict(
        b=(7., 2), c=(0., 2))
