import math
import sys

import numpy as np
import pytest
from scipy import stats

from mcod_plugin.compare.statistics import (Estimate, estimate,
                                            paired_difference)
from mcod_plugin.errors import ConfigError


def test_estimate_by_hand():
    assert estimate([1., 2., 6.]) == Estimate(3., 7**.5, 3)
    assert estimate([4.]) == Estimate(4., None, 1)
    assert estimate([]) is None
    assert estimate(iter([2., 2.])) == Estimate(2., 0., 2)


def test_run_that_diverged():
    found = estimate([math.nan, 1.])
    assert math.isnan(found.mean) and math.isnan(found.sd)


def test_interval_by_hand():
    # The quantile of t with two degrees of freedom has a closed form:
    # (2p - 1) * sqrt(2 / (4 p (1 - p))).
    p = 0.975
    quantile = (2 * p - 1) * (2 / (4 * p * (1 - p)))**.5
    low, high = estimate([1., 2., 6.]).interval()
    half = quantile * (7 / 3)**.5
    assert (low, high) == pytest.approx((3 - half, 3 + half), rel=1e-12)


def test_no_interval_of_one_value():
    assert estimate([4.]).interval() is None


def test_interval_of_equal_values_is_the_value():
    assert estimate([2., 2., 2.]).interval() == (2., 2.)


@pytest.mark.parametrize('n', (2, 3, 5, 30))
@pytest.mark.parametrize('confidence', (.5, .95, .99))
def test_agrees_with_scipy(n, confidence):
    generator = np.random.default_rng(n)
    base = generator.normal(50, 3, n)
    values = base + generator.normal(1, .5, n)
    found = paired_difference(dict(enumerate(values)), dict(enumerate(base)))
    test = stats.ttest_rel(values, base)
    assert found.n == n
    assert found.mean == pytest.approx((values - base).mean(), rel=1e-12)
    assert found.sd == pytest.approx(np.std(values - base, ddof=1), rel=1e-12)
    assert found.interval(confidence) == pytest.approx(
        tuple(test.confidence_interval(confidence)), rel=1e-10)


def test_pairs_are_those_of_the_seed():
    values, base = {0: 5., 3: 9., 7: 100.}, {3: 1., 9: 50., 0: 2.}
    assert paired_difference(values, base) == estimate([3., 8.])
    assert paired_difference(values, {1: 4.}) is None


def test_what_seeds_share_cancels():
    shared = {0: 10., 1: -30., 2: 5.}
    base = {seed: 40 + shift for seed, shift in shared.items()}
    values = {seed: value + 1 for seed, value in base.items()}
    assert paired_difference(values, base) == Estimate(1., 0., 3)


def test_without_scipy(monkeypatch):
    monkeypatch.setitem(sys.modules, 'scipy.stats', None)
    with pytest.raises(ConfigError, match=r"\.\[compare\]"):
        estimate([1., 2.]).interval()
