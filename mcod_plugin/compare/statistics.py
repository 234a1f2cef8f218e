"""Means over seeds, and how sure they are."""
import math
from dataclasses import dataclass
from typing import Iterable, Mapping, Optional, Tuple

from mcod_plugin.errors import ConfigError

__all__ = ['Estimate', 'estimate', 'paired_difference']


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

    def interval(self,
                 confidence: float = 0.95) -> Optional[Tuple[float, float]]:
        r"""The confidence interval of the mean by Student's t.

        .. math:: \bar{x} \pm t_{(1 + c) / 2,\ n - 1} \frac{s}{\sqrt{n}}

        for mean :math:`\bar{x}` and standard deviation :math:`s` of
        :math:`n` values and confidence :math:`c`. It takes the values for
        normally distributed; a few seeds cannot show whether they are.

        Args:
            confidence (float): The confidence, between 0 and 1. Defaults to
                0.95.

        Returns:
            tuple[float, float] | None: Lower and upper end. None for a single
            value.

        Raises:
            ConfigError: If SciPy is missing.
        """
        if self.sd is None:
            return None
        try:
            from scipy.stats import t
        except ImportError as error:
            raise ConfigError("confidence intervals need SciPy; pip install "
                              "-e '.[compare]' installs it") from error
        half = float(t.ppf((1 + confidence) / 2, self.n - 1))
        half *= self.sd / math.sqrt(self.n)
        return self.mean - half, self.mean + half


def estimate(values: Iterable[float]) -> Optional[Estimate]:
    """Mean and spread of some values.

    Args:
        values (Iterable[float]): The values, such as one for each seed.

    Returns:
        Estimate | None: The estimate. None if there is no value.
    """
    values = list(values)
    n = len(values)
    if not n:
        return None
    mean = math.fsum(values) / n
    if n == 1:
        return Estimate(mean, None, n)
    squares = math.fsum((value - mean)**2 for value in values)
    return Estimate(mean, math.sqrt(squares / (n - 1)), n)


def paired_difference(values: Mapping[int, float],
                      baseline: Mapping[int, float]) -> Optional[Estimate]:
    """By how much a method differs from a baseline.

    Runs of one seed start from equal weights and see equal batches, so each
    is compared with its own counterpart: the mean of the differences is the
    difference of the means, but varies less. The interval of the result is
    that of the paired t-test.

    Args:
        values (Mapping[int, float]): Values of the method by seed.
        baseline (Mapping[int, float]): Values of the baseline by seed. Seeds
            that only one of them has do not count.

    Returns:
        Estimate | None: The estimate of ``values - baseline``. None if they
        have no seed in common.
    """
    return estimate(value - baseline[seed] for seed, value in values.items()
                    if seed in baseline)
