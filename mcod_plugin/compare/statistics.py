"""Means over seeds, what differs between methods, and how sure that is."""
import math
from bisect import bisect_left
from dataclasses import dataclass
from typing import (Any, Callable, Iterable, List, Mapping, Optional, Sequence,
                    Tuple)

import numpy as np

from mcod_plugin.errors import ConfigError

__all__ = [
    'Contrast', 'Estimate', 'TwoWay', 'estimate', 'holm', 'seeds_for_level',
    'seeds_needed'
]

# Of the intervals, whose complement is the level of the tests.
CONFIDENCE = 0.95
# With what probability a difference is to be seen, and with how many seeds at
# most.
POWER = 0.8
MOST_SEEDS = 1000
# Residuals below this share of the values are those of their arithmetic.
ROUNDING = 1e-12


@dataclass(frozen=True)
class Estimate:
    """A mean over independent values.

    Attributes:
        mean (float): The mean.
        sd (float, optional): The sample standard deviation, with ``n - 1``
            in the denominator. None for a single value.
        n (int): How many values there are.
    """
    mean: float
    sd: Optional[float]
    n: int


def estimate(values: Iterable[float]) -> Optional[Estimate]:
    """Mean and spread of some values, such as one for each seed; None if there
    is no value."""
    values = list(values)
    n = len(values)
    if not n:
        return None
    mean = math.fsum(values) / n
    if n == 1:
        return Estimate(mean, None, n)
    squares = math.fsum((value - mean)**2 for value in values)
    return Estimate(mean, math.sqrt(squares / (n - 1)), n)


@dataclass(frozen=True)
class Contrast:
    """The difference of two methods.

    All that it says takes noise for normally distributed, and for as large
    in one method as in another; a few seeds cannot show whether it is.

    Attributes:
        value (float): Its estimate.
        error (float, optional): The standard error. None if nothing is left
            to tell it from, or if one of the methods has a single value.
        freedom (int): Degrees of freedom of the standard error.
    """
    value: float
    error: Optional[float]
    freedom: int

    def interval(self) -> Optional[Tuple[float, float]]:
        """Lower and upper end of the 95 % confidence interval by Student's t;
        None without a standard error."""
        if self.error is None:
            return None
        half = self.error * float(_scipy_stats().t.ppf(
            (1 + CONFIDENCE) / 2, self.freedom))
        return self.value - half, self.value + half

    def excludes_zero(self) -> bool:
        """Whether the interval does not hold 0; without an interval it never
        does."""
        interval = self.interval()
        return interval is not None and not interval[0] <= 0 <= interval[1]

    def p_value(self) -> float:
        """How likely a value at least as far from 0 would be if the methods
        were the same: the two-sided t-test. It takes a standard error."""
        return 2 * self._tail(abs(self.value))

    def p_level(self, margin: float) -> float:
        """How likely such a value would be if the methods differed by the
        margin, above 0, or more: the greater probability of two one-sided
        t-tests (Schuirmann, 1987). It takes a standard error."""
        return max(
            self._tail(margin + self.value), self._tail(margin - self.value))

    def _tail(self, value: float) -> float:
        """The probability of a greater deviation than this one."""
        if not self.error:
            return float(value < 0) if value else 0.5
        return float(_scipy_stats().t.sf(value / self.error, self.freedom))


class TwoWay:
    r"""Values that add up from a method, a seed and noise.

    .. math:: y_{ms} = \mu_m + \sigma_s + \varepsilon_{ms}

    fitted by least squares. What is left of all methods together tells how
    large the noise is, so that the intervals of a few seeds are narrower than
    those of each pair of methods for itself. Of two methods that have the
    same seeds it is the paired t-test.

    Args:
        values (Mapping[str, Mapping[int, float]]): The values by method and
            seed. Not all methods need have all seeds.

    Attributes:
        sd (float, optional): The standard deviation of the noise. None if
            nothing is left to tell it from.
        freedom (int): Its degrees of freedom.
    """

    def __init__(self, values: Mapping[str, Mapping[int, float]]) -> None:
        values = {method: own for method, own in values.items() if own}
        self._counts = {method: len(own) for method, own in values.items()}
        cells = [(method, seed) for method, own in values.items()
                 for seed in own]
        seeds = sorted({seed for _, seed in cells})
        self._columns = {
            key: index
            for index, key in enumerate([*values, *seeds])
        }
        design = np.zeros((len(cells), len(self._columns)))
        for row, cell in zip(design, cells):
            row[[self._columns[key] for key in cell]] = 1
        found = np.array([values[method][seed] for method, seed in cells])
        self._inverse = np.linalg.pinv(design)
        self._effects = self._inverse @ found
        self._known = self._inverse @ design
        rank = round(float(np.trace(self._known)))
        self.freedom = len(cells) - rank
        self.sd = None
        # What is below is of the computation, not of the values.
        self._least = ROUNDING * np.abs(found).max(initial=0)
        if self.freedom:
            rest = found - design @ self._effects
            if np.abs(rest).max() <= self._least:
                rest = np.zeros_like(rest)
            self.sd = math.sqrt(float(rest @ rest) / self.freedom)

    def difference(self, method: str, other: str) -> Optional[Contrast]:
        """By how much a method is greater than another one; None if the values
        cannot tell it, as of a method that has none."""
        if not {method, other} <= self._columns.keys():
            return None
        row = np.zeros(len(self._columns))
        row[self._columns[method]] = 1
        row[self._columns[other]] = -1
        if not np.allclose(row @ self._known, row, atol=1e-8):
            return None
        error = None
        # Of a single value nothing tells whether its noise is that of others.
        if self.sd is not None and min(self._counts[method],
                                       self._counts[other]) > 1:
            error = self.sd * float(np.linalg.norm(row @ self._inverse))
        value = float(row @ self._effects)
        if abs(value) <= self._least:
            value = 0.
        return Contrast(value, error, self.freedom)


def holm(p_values: Sequence[float]) -> List[float]:
    """Probabilities of several tests, in their order, adjusted so that the
    chance of a wrong discovery among all of them is kept (Holm, 1979)."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, least = [0.] * len(p_values), 0.
    for rank, index in enumerate(order):
        least = max(least, (len(p_values) - rank) * p_values[index])
        adjusted[index] = min(least, 1.)
    return adjusted


def seeds_needed(sd: float, methods: int, difference: float) -> Optional[int]:
    """The least number of seeds with which a true difference of two among
    several methods, all of which have these seeds, would be seen by a
    two-sided t-test in four of five studies. ``sd`` is that of the noise, see
    :class:`TwoWay`. None if it is beyond ``MOST_SEEDS``."""
    stats = _scipy_stats()

    def power(shift: float, freedom: int) -> float:
        # The square of t, whose distribution SciPy computes more exactly.
        limit = stats.f.isf(1 - CONFIDENCE, 1, freedom)
        return stats.ncf.sf(limit, 1, freedom, shift**2)

    return _least_seeds(power, sd, methods, difference)


def seeds_for_level(sd: float, methods: int, margin: float) -> Optional[int]:
    """The least number of seeds with which two methods that are the same
    would be found to differ by less than the margin in four of five studies,
    see :meth:`Contrast.p_level`. Else as :func:`seeds_needed`."""
    stats = _scipy_stats()

    def power(shift: float, freedom: int) -> float:
        # That both tests miss at once does not happen where one rarely does.
        limit = stats.t.isf(1 - CONFIDENCE, freedom)
        return 2 * stats.nct.sf(limit, freedom, shift) - 1

    return _least_seeds(power, sd, methods, margin)


def _least_seeds(power: Callable[[float, int], float], sd: float, methods: int,
                 difference: float) -> Optional[int]:

    def is_enough(seeds: int) -> bool:
        if not sd:
            return True
        shift = difference / (sd * math.sqrt(2 / seeds))
        return power(shift, (methods - 1) * (seeds - 1)) >= POWER
    numbers = range(2, MOST_SEEDS + 1)
    place = bisect_left(numbers, True, key=is_enough)
    return numbers[place] if place < len(numbers) else None


def _scipy_stats() -> Any:
    try:
        from scipy import stats
    except ImportError as error:
        raise ConfigError("confidence intervals need SciPy; pip install "
                          "-e '.[compare]' installs it") from error
    return stats
