import pytest

from mcod_plugin.engine.parallel.deal import deal, speed_bound


@pytest.mark.parametrize(
    'costs, number, shares, bound',
    [
        (dict(a=5, b=3, c=2), 1, [['a', 'b', 'c']], 1.),
        (dict(a=5, b=3, c=2), 2, [['a'], ['b', 'c']], 2.),
        (dict(b=3, c=2, a=5), 2, [['a'], ['b', 'c']], 2.),
        (dict(a=9, b=1, c=1), 3, [['a'], ['b'], ['c']], 11 / 9),
        (dict(a=4, b=4, c=4), 2, [['a', 'c'], ['b']], 1.5),
        # Nobody is left without one.
        (dict(a=0, b=0), 2, [['a'], ['b']], 1.),
    ])
def test_deal(costs, number, shares, bound):
    found = deal(costs, number)
    assert found == shares
    assert speed_bound(costs, found) == pytest.approx(bound)


def test_each_has_one_that_is_trained():
    costs = dict(fixed=100, a=5, b=1)
    assert deal(costs, 2) == [['fixed'], ['a', 'b']]
    assert deal(costs, 2, ['fixed']) == [['a'], ['fixed', 'b']]
