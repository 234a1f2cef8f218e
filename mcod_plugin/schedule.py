"""When the branches are distilled, and how strongly."""
import math
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from numbers import Integral
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple, Union

from .errors import ConfigError, check_choice, check_integer, check_number

__all__ = ['DiscontinuousSchedule']


def _exp_ramp(progress: float) -> float:
    """The ramp-up of Laine and Aila, arXiv:1610.02242.

    Theirs starts at exp(-5), a jump of 0.7%; this one is rescaled to start
    at 0 as the other curves do.
    """
    floor = math.exp(-5)
    return (math.exp(-5 * (1 - progress)**2) - floor) / (1 - floor)


# Each maps [0, 1] to [0, 1], never falls, and keeps both ends in place.
CURVES: Dict[str, Callable[[float], float]] = {
    'linear': lambda progress: progress,
    'cosine': lambda progress: (1 - math.cos(math.pi * progress)) / 2,
    'exp': _exp_ramp,
    'step': lambda progress: 1. if progress >= 0.5 else 0.,
}

# The printed table leaves out rows in its middle beyond this many.
MAX_ROWS = 16


def _check_pair(name: str, value: Any) -> Sequence:
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise ConfigError(f'KD schedule: {name} must be a pair, its first '
                          f'and its last value; got {value!r}')
    return value


def _check_steps(name: str, value: Any, minimum: int) -> None:
    """Raise unless a value is a number of steps or a share of the run."""
    share = isinstance(value, float) and 0 < value < 1
    steps = (
        isinstance(value, Integral) and not isinstance(value, bool)
        and value >= minimum)
    if not (share or steps):
        raise ConfigError(
            f'KD schedule: {name} must be an integer of at least {minimum} '
            '(steps) or a number between 0 and 1 (a share of the run); got '
            f'{value!r}')


def _plain_steps(value: Any) -> Any:
    return value if value is None or isinstance(value, float) else int(value)


def _to_steps(value: Any, total: int) -> Any:
    """The number of steps that a share of a run is."""
    if not isinstance(value, float):
        return value
    return math.floor(value * total + 0.5)


@dataclass(frozen=True, init=False, repr=False)
class DiscontinuousSchedule:
    r"""The weight of the distillation loss as a pure function of time.

    Time is a 0-based step: an epoch or an iteration, the schedule does not
    know which. Over ``[begin, end)`` it repeats cycles of ``on`` steps in
    which the branches are distilled, followed by a gap of steps in which they
    learn on their own. From the first to the last step, the gap goes from
    ``gap[0]`` to ``gap[1]`` and the weight from ``weight[0]`` to
    ``weight[1]``, both as

    .. math::
        v(p) = v_0 + (v_1 - v_0) f(p)

    where :math:`f` is the ``curve`` and :math:`p \in [0, 1]` the progress:

    - The weight's progress runs from the first step that is on to the last
      one, so that they have exactly ``weight[0]`` and ``weight[1]`` even if
      the run ends in a gap. If only one step is on, it has ``weight[0]``.
    - The gap's progress is that of the start of its cycle, between ``begin``
      and ``end - 1``. A gap is rounded to the nearest number of steps, and a
      half is rounded up.
    - With a ``ramp`` of :math:`r` steps, the progress of both is
      :math:`\min((t - \text{begin}) / r, 1)` instead, :math:`t` being the
      step or the start of the cycle: they have reached their last values
      after :math:`r` steps, and keep them.

    The curves are

    - ``'linear'``: :math:`p`
    - ``'cosine'``: :math:`(1 - \cos \pi p) / 2`
    - ``'exp'``: :math:`e^{-5 (1 - p)^2}` (`Temporal Ensembling
      <https://arxiv.org/abs/1610.02242>`_), rescaled to start at 0
    - ``'step'``: 0 in the first half, 1 from :math:`p = 0.5` on

    Args:
        on (int): Length of an on-phase in steps. Defaults to 1.
        gap (Sequence[int]): The first and the last length of the gap between
            two on-phases, in steps. ``(0, 0)`` is always on.
            Defaults to ``(1, 0)``.
        weight (Sequence[float]): The first and the last weight. A step of
            weight 0 is off, so ``(0, 0)`` never distills.
            Defaults to ``(1.0, 1.0)``.
        curve (str): ``'linear'``, ``'cosine'``, ``'exp'`` or ``'step'``.
            Defaults to ``'linear'``.
        begin (int | float): The first step of the first on-phase. As for
            ``end`` and ``ramp``, an integer is a number of steps, and a float
            between 0 and 1 a share of the run: :meth:`resolve` makes
            ``floor(share * total + 0.5)`` steps of it. Defaults to 0.
        end (int | float, optional): The step before which the schedule ends.
            None is the end of the run, which :meth:`resolve` puts in.
            Defaults to None.
        ramp (int | float, optional): How many steps after ``begin`` gap and
            weight have their last values. A share of the run is at least one
            step. None is as described above, over the whole schedule.
            Defaults to None.

    Examples:
        >>> schedule = DiscontinuousSchedule(gap=(2, 0), weight=(0.25, 1))
        >>> schedule.resolve(6).table()
        [(0, 0.25), (1, 0.0), (2, 0.0), (3, 0.7), (4, 0.0), (5, 1.0)]
        >>> rising = DiscontinuousSchedule(gap=(0, 0), weight=(0, 1), ramp=0.5)
        >>> rising.resolve(6).table()[:4]
        [(0, 0.0), (1, 0.3333333333333333), (2, 0.6666666666666666), (3, 1.0)]
    """

    on: int
    gap: Tuple[int, int]
    weights: Tuple[float, float]
    curve: str
    begin: Union[int, float]
    end: Optional[Union[int, float]]
    ramp: Optional[Union[int, float]]

    # Written out since the argument ``weight`` has the name of the method.
    def __init__(self,
                 on: int = 1,
                 gap: Sequence[int] = (1, 0),
                 weight: Sequence[float] = (1.0, 1.0),
                 curve: str = 'linear',
                 begin: Union[int, float] = 0,
                 end: Optional[Union[int, float]] = None,
                 ramp: Optional[Union[int, float]] = None) -> None:
        check_integer('KD schedule: on', on)
        for i, length in enumerate(_check_pair('gap', gap)):
            check_integer(f'KD schedule: gap[{i}]', length, minimum=0)
        for i, value in enumerate(_check_pair('weight', weight)):
            check_number(f'KD schedule: weight[{i}]', value, minimum=0)
        check_choice('KD schedule: curve', curve, CURVES)
        _check_steps('begin', begin, minimum=0)
        if end is not None:
            _check_steps('end', end, minimum=0)
            # A share and a number of steps compare once they are resolved.
            if isinstance(begin, float) == isinstance(end,
                                                      float) and end <= begin:
                raise ConfigError('KD schedule: end must be greater than '
                                  f'begin, {begin}, or None; got {end}')
        if ramp is not None:
            _check_steps('ramp', ramp, minimum=1)
        # The dataclass is frozen for all but its own constructor.
        assign = object.__setattr__
        assign(self, 'on', int(on))
        assign(self, 'gap', tuple(map(int, gap)))
        assign(self, 'weights', tuple(map(float, weight)))
        assign(self, 'curve', curve)
        assign(self, 'begin', _plain_steps(begin))
        assign(self, 'end', _plain_steps(end))
        assign(self, 'ramp', _plain_steps(ramp))

    def resolve(self, total: int) -> 'DiscontinuousSchedule':
        """Put in the end of the run, and steps for shares of it.

        Args:
            total (int): Number of steps of the run.

        Returns:
            DiscontinuousSchedule: The schedule in steps, which ends with the
            run unless it has an ``end``; this one if it is so already.

        Raises:
            ConfigError: If the run, or the schedule, ends before the schedule
                begins.
        """
        begin = _to_steps(self.begin, total)
        if begin >= total:
            raise ConfigError('KD schedule: begin must be less than the '
                              f'{total} steps of the run; got {self.begin}')
        end = total if self.end is None else _to_steps(self.end, total)
        if end <= begin:
            raise ConfigError(
                f'KD schedule: in a run of {total} steps, end must be after '
                f'begin, {self.begin}; got {self.end}, which is step {end}')
        ramp = _to_steps(self.ramp, total)
        if ramp is not None:
            ramp = max(ramp, 1)
        if (begin, end, ramp) == (self.begin, self.end, self.ramp):
            return self
        return DiscontinuousSchedule(self.on, self.gap, self.weights,
                                     self.curve, begin, end, ramp)

    @cached_property
    def phases(self) -> List[Tuple[int, int]]:
        """List[Tuple[int, int]]: First step of each on-phase and the step
        after its last. The end may cut the last one short."""
        steps = self._steps()
        phases = []
        start = steps[0]
        while start in steps:
            phases.append((start, min(start + self.on, steps.stop)))
            gap = self._between(self.gap, start, steps[-1])
            # A half may be missed by a rounding error, hence the epsilon.
            start += self.on + math.floor(gap + 0.5 + 1e-9)
        return phases

    def weight(self, t: int) -> float:
        """The weight at a step.

        Args:
            t (int): The 0-based step.

        Returns:
            float: The weight, 0 in gaps and outside of ``[begin, end)``.
        """
        phases = self.phases
        index = bisect_right(phases, (t, math.inf)) - 1
        if index < 0 or t >= phases[index][1]:
            return 0.
        return self._between(self.weights, t, phases[-1][1] - 1)

    def is_on(self, t: int) -> bool:
        """Whether the branches are distilled at step ``t``."""
        return self.weight(t) > 0

    def table(self) -> List[Tuple[int, float]]:
        """List[Tuple[int, float]]: Each step of ``[begin, end)`` with its
        weight."""
        return [(t, self.weight(t)) for t in self._steps()]

    @property
    def _depends_on_run(self) -> bool:
        """Whether it is told by the run how long it is."""
        return self.end is None or any(
            isinstance(value, float)
            for value in (self.begin, self.end, self.ramp))

    def _steps(self) -> range:
        if self._depends_on_run:
            raise ValueError('This schedule depends on the length of the run: '
                             'call resolve(total) with its number of steps '
                             'first')
        return range(self.begin, self.end)

    def _between(self, ends: Sequence[float], t: int, last: int) -> float:
        """The value at ``t`` on the way from ``ends[0]`` at ``begin`` to
        ``ends[1]`` at ``last``, or at the end of the ramp."""
        # If the first step is also the last one, there is no way to go.
        way = self.ramp or max(last - self.begin, 1)
        progress = min((t - self.begin) / way, 1)
        fraction = CURVES[self.curve](progress)
        # The sum below may miss the last value by a rounding error.
        if fraction == 1:
            return ends[1]
        return ends[0] + (ends[1] - ends[0]) * fraction

    def __repr__(self) -> str:
        return (f'{type(self).__name__}(on={self.on}, gap={self.gap}, '
                f'weight={self.weights}, curve={self.curve!r}, '
                f'begin={self.begin}, end={self.end}, ramp={self.ramp})')

    def __str__(self) -> str:
        """A table of the phases, and how many steps are on."""
        if self._depends_on_run:
            return f'{self!r}, to be resolved'
        steps = self._steps()
        num_on = sum(map(self.is_on, steps))
        summary = (f'{num_on} of the {len(steps)} steps from {steps[0]} to '
                   f'{steps[-1]} are on')
        return '\n'.join([*self._rows(), summary]) if num_on else summary

    def _rows(self) -> List[str]:
        """The header and a row for consecutive cycles of equal lengths, all
        of them within the ramp or beyond it."""
        next_starts = [start for start, _ in self.phases[1:]] + [self.end]
        phases = zip(self.phases, next_starts)
        top = math.inf if self.ramp is None else self.begin + self.ramp
        cycles = [(start, stop - start, next_start - stop, start < top)
                  for (start, stop), next_start in phases]
        rows = []
        for (on, off, _), group in groupby(cycles, lambda cycle: cycle[1:]):
            starts = [start for start, *_ in group]
            first, last = starts[0], starts[-1] + on - 1
            rows.append(
                (f'{first}-{last + off}', str(on), str(off), str(len(starts)),
                 f'{self.weight(first):.4g} to {self.weight(last):.4g}'))
        if len(rows) > MAX_ROWS:
            half = MAX_ROWS // 2
            rows[half:-half] = [('...', ) * 5]
        rows.insert(0, ('steps', 'on', 'off', 'phases', 'weight'))
        widths = [max(map(len, column)) for column in zip(*rows)]
        return [
            '  '.join(cell.rjust(width) for cell, width in zip(row, widths))
            for row in rows
        ]
