import itertools
import math
import sys

import numpy as np
import pytest
from scipy import stats

from mcod_plugin.compare.statistics import (Contrast, Estimate, TwoWay,
                                            estimate, holm, seeds_for_level,
                                            seeds_needed)
from mcod_plugin.errors import ConfigError


def test_estimate_by_hand():
    assert estimate([1., 2., 6.]) == Estimate(3., 7**.5, 3)
    assert estimate([4.]) == Estimate(4., None, 1)
    assert estimate([]) is None
    assert estimate(iter([2., 2.])) == Estimate(2., 0., 2)


def test_run_that_diverged():
    found = estimate([math.nan, 1.])
    assert math.isnan(found.mean) and math.isnan(found.sd)


def by_seed(*values):
    return dict(enumerate(values))


def test_interval_by_hand():
    # The quantile of t with two degrees of freedom has a closed form:
    # (2p - 1) * sqrt(2 / (4 p (1 - p))).
    p = 0.975
    quantile = (2 * p - 1) * (2 / (4 * p * (1 - p)))**.5
    found = Contrast(3., 1.5, 2)
    half = quantile * 1.5
    assert found.interval() == pytest.approx((3 - half, 3 + half), rel=1e-12)
    # It holds 0; one of half the error does not.
    assert half > 3 and not found.excludes_zero()
    assert Contrast(3., .5, 2).excludes_zero()
    assert Contrast(-3., .5, 2).excludes_zero()


def test_nothing_is_known_of_one_seed():
    found = TwoWay(dict(solo={0: 40.}, mcod={0:
                                             42.})).difference('mcod', 'solo')
    assert found.value == pytest.approx(2.) and found.error is None
    assert found.interval() is None
    assert not found.excludes_zero()


@pytest.mark.parametrize('seed', range(20))
def test_methods_that_are_the_same(seed):
    """Rounding tells them apart as little as noise, of which there is none."""
    values = by_seed(*np.random.default_rng(seed).uniform(20, 70, 3))
    found = TwoWay(dict(solo=values, mcod=values)).difference('mcod', 'solo')
    assert found.value == 0 and found.interval() == (0, 0)
    assert not found.excludes_zero()
    assert found.p_value() == 1 and found.p_level(.3) == 0


@pytest.mark.parametrize('n', (2, 3, 5, 30))
def test_two_methods_are_the_paired_test(n):
    generator = np.random.default_rng(n)
    base = generator.normal(50, 3, n)
    values = base + generator.normal(1, .5, n)
    model = TwoWay(dict(solo=by_seed(*base), mcod=by_seed(*values)))
    found = model.difference('mcod', 'solo')
    test = stats.ttest_rel(values, base)
    assert found.freedom == n - 1
    assert found.value == pytest.approx((values - base).mean(), rel=1e-12)
    assert found.interval() == pytest.approx(
        tuple(test.confidence_interval(.95)), rel=1e-9)
    assert found.p_value() == pytest.approx(test.pvalue, rel=1e-9)


def test_more_methods_by_hand():
    """The sums of squares of a table with two ways, in closed form."""
    generator = np.random.default_rng(1)
    table = generator.normal(50, 2, (4, 3)) + [0, 5, -9]
    model = TwoWay({name: by_seed(*row) for name, row in zip('abcd', table)})
    rest = (
        table - table.mean(1, keepdims=True) - table.mean(0) + table.mean())
    assert model.freedom == 3 * 2
    assert model.sd**2 == pytest.approx((rest**2).sum() / 6, rel=1e-10)
    found = model.difference('b', 'd')
    assert found.value == pytest.approx(table[1].mean() - table[3].mean())
    assert found.error == pytest.approx(model.sd * (2 / 3)**.5, rel=1e-10)


def test_missing_runs_by_the_normal_equations():
    """Each value is one row of a regression on methods and seeds."""
    values = dict(
        a={
            0: 1.,
            1: 4.,
            2: 2.5
        }, b={
            0: 2.,
            2: 4.
        }, c={
            1: 9.,
            3: 7.
        }, d={})
    model = TwoWay(values)
    rows = [(m, s, v) for m, own in values.items() for s, v in own.items()]
    # a and seed 0 are what the others differ from
    design = np.array([[1, m == 'b', m == 'c', s == 1, s == 2, s == 3]
                       for m, s, _ in rows], float)
    target = np.array([v for *_, v in rows])
    covariance = np.linalg.inv(design.T @ design)
    effects = covariance @ design.T @ target
    rest = target - design @ effects
    sd = (rest @ rest / (len(rows) - 6))**.5
    assert model.freedom == len(rows) - 6 and model.sd == pytest.approx(sd)
    found = model.difference('b', 'a')
    assert found.value == pytest.approx(effects[1])
    assert found.error == pytest.approx(sd * covariance[1, 1]**.5)
    found = model.difference('b', 'c')
    assert found.value == pytest.approx(effects[1] - effects[2])
    assert model.difference('d', 'a') is model.difference('x', 'a') is None


def test_method_of_one_value():
    """Whether its noise is that of others nobody knows."""
    model = TwoWay(
        dict(a=by_seed(1., 2., 4.), b=by_seed(3., 1., 2.), c=by_seed(9.)))
    found = model.difference('c', 'a')
    # What a gives for its seed is 7/3 - 1/6.
    assert found.value == pytest.approx(9 - 13 / 6) and found.error is None
    assert not found.excludes_zero()
    assert model.difference('a', 'b').error is not None


def test_methods_without_a_common_seed():
    """Neither directly nor by way of others."""
    model = TwoWay(
        dict(a=by_seed(1., 2.), b=by_seed(3., 1.), c={
            5: 4.,
            6: 5.
        }))
    assert model.difference('a', 'b') is not None
    assert model.difference('a', 'c') is None


def test_what_seeds_share_cancels():
    base = by_seed(50., 10., 45.)
    model = TwoWay(dict(solo=base, mcod={s: v + 1 for s, v in base.items()}))
    found = model.difference('mcod', 'solo')
    assert found.value == pytest.approx(1.)
    # What is left is rounding, which is not noise.
    assert model.sd == 0. and found.p_value() == 0.
    assert found.interval() == (found.value, found.value)


@pytest.mark.parametrize('value, p, level', [(1., 0., 1.), (-.2, 0., 0.),
                                             (0., 1., 0.)])
def test_without_noise(value, p, level):
    found = Contrast(value, 0., 4)
    assert found.p_value() == p and found.p_level(.3) == level


@pytest.mark.parametrize('shift', [-.5, 0., .1, .29, 2.])
def test_level_by_two_tests_of_one_side(shift):
    generator = np.random.default_rng(7)
    base, other = generator.normal(0, .2, (2, 6))
    other += shift
    found = TwoWay(dict(a=by_seed(*other),
                        b=by_seed(*base))).difference('a', 'b')
    below = stats.ttest_1samp(other - base, .3, alternative='less')
    above = stats.ttest_1samp(other - base, -.3, alternative='greater')
    assert found.p_level(.3) == pytest.approx(
        max(below.pvalue, above.pvalue), rel=1e-8)


def test_holm():
    # the least times 4, the next times 3 and no less than that, ...
    assert holm([.01, .04, .03, .005]) == pytest.approx([.03, .06, .06, .02])
    assert holm([.6, .9]) == [1., 1.] and holm([]) == [] and holm([.2]) == [.2]
    # closed testing with Bonferroni: a test is adjusted to the greatest of
    # all families that it is in
    values = [.001, .02, .013, .5, .04]
    for index, found in enumerate(holm(values)):
        families = [
            family for size in range(1, 6)
            for family in itertools.combinations(range(5), size)
            if index in family
        ]
        assert found == pytest.approx(
            max(
                min(1.,
                    len(family) * min(values[i] for i in family))
                for family in families))


def test_seeds_by_trial():
    """As many as are told see the difference in four of five studies, one
    less do not."""
    generator = np.random.default_rng(0)
    methods, sd, sought = 3, .4, .9
    needed = seeds_needed(sd, methods, sought)

    def seen(seeds, trials=3000):
        noise = generator.normal(0, sd, (trials, methods, seeds))
        noise[:, 0] += sought
        rest = (
            noise - noise.mean(2, keepdims=True) -
            noise.mean(1, keepdims=True) + noise.mean((1, 2), keepdims=True))
        freedom = (methods - 1) * (seeds - 1)
        error = (2 / seeds * (rest**2).sum((1, 2)) / freedom)**.5
        difference = noise[:, 0].mean(1) - noise[:, 1].mean(1)
        return np.mean(abs(difference) / error > stats.t.ppf(.975, freedom))

    assert seen(needed) > .78 and seen(needed - 1) < .8
    assert seeds_needed(0., 2, .1) == 2
    assert seeds_needed(100., 2, .1) is None


def test_seeds_to_find_methods_level():
    """So many seeds find four in five equal methods level, and some less do
    not."""
    generator = np.random.default_rng(0)
    methods, sd, margin = 3, .3, .5
    needed = seeds_for_level(sd, methods, margin)

    def level(seeds, trials=400):
        found = []
        for _ in range(trials):
            values = generator.normal(0, sd, (methods, seeds))
            model = TwoWay(dict(zip('abc', map(lambda row: by_seed(*row),
                                               values))))
            found.append(model.difference('a', 'b').p_level(margin) < .05)
        return np.mean(found)

    assert level(needed) > .75 and level(needed - 1) < .83
    assert level(needed // 2) < .5
    assert seeds_for_level(0., 2, .1) == 2
    assert seeds_for_level(100., 2, .1) is None


def test_without_scipy(monkeypatch):
    monkeypatch.setitem(sys.modules, 'scipy', None)
    with pytest.raises(ConfigError, match=r"\.\[compare\]"):
        Contrast(1., 1., 2).interval()
