import math
from typing import Any, Dict, Iterable, List, Mapping, Sequence

from mcod_plugin.utils.plain import to_host
from .metrics import columns
from .record import mean_of, numbers

# What is kept in a checkpoint, besides the part that has begun.
LISTS = ('rows', 'until', 'kd_weight', 'kd_on')
BY_NAME = ('kd_weights', 'kd_ratio', 'train_loss')


class Courses:
    """What took effect and what was measured in a run, part by part.

    A part is an epoch, or of a run that counts in iterations what lies
    between two validations. What of it is not known is NaN.

    Args:
        unit (str): What the run counts in, ``'epoch'`` or ``'iteration'``.

    Attributes:
        rows (list[dict]): By validation the number of epochs (or iterations)
            that were over, under ``unit``, and the metrics by name.
        until (list[int]): How many epochs (or iterations) were over at the
            end of each part.
        kd_weight (list[float]): The mean weight of the distillation in each
            part, the greatest of all branches.
        kd_weights (dict[str, list[float]]): The same by branch, if branches
            have had different weights.
        kd_on (list[float]): The share of the steps that distilled.
        kd_ratio (dict[str, list[float]]): By branch the mean of the ratios
            that were measured; 0 in a part without any.
        train_loss (dict[str, list[float]]): By branch the mean of its own
            loss.
        steps (int): Number of steps of the part that has begun.
    """

    def __init__(self, unit: str) -> None:
        self.unit = unit
        for name in LISTS:
            setattr(self, name, [])
        for name in BY_NAME:
            setattr(self, name, {})
        self.begin_part()

    def begin_part(self) -> None:
        """Begin a part, and forget what was not ended."""
        self.steps = 0
        self._weights: Dict[str, List[Any]] = {}
        self._ratios: Dict[str, List[Any]] = {}

    def add_unknown(self, done: int) -> None:
        """Note so many epochs, each of which is a part, or iterations, which
        are one part, of which nothing is known."""
        self.until = ([*range(1, done + 1)]
                      if self.unit == 'epoch' else [done])
        self.kd_weight = [math.nan] * len(self.until)
        self.kd_on = [math.nan] * len(self.until)

    def add_step(self, outputs: Mapping[str, Any]) -> None:
        """Keep weights and ratios of a step, of ``kd_weight``,
        ``<branch>.kd_weight`` and ``<branch>.kd_ratio`` in what it gives by
        name: numbers or scalar tensors, which are not read yet."""
        self.steps += 1
        weights = self._weights
        own = {}
        for key, value in outputs.items():
            name, _, what = key.rpartition('.')
            if what == 'kd_ratio':
                self._ratios.setdefault(name, []).append(value)
            elif what == 'kd_weight':
                own[name] = value
        # Branches are named in steps in which their weights differ. The
        # empty name, of the greatest, comes last, as it is what the others
        # have had before.
        shared = own.pop('', 0.)
        for name in {**dict.fromkeys(filter(None, weights)), **own}:
            weights.setdefault(name, list(weights.get('', ()))).append(
                own.get(name, shared))
        weights.setdefault('', []).append(shared)

    def end_part(self, done: int, losses: Mapping[str, float]) -> None:
        """Note what the part was like, up to so many epochs (or iterations),
        and begin the next one. The losses are by branch the mean of its
        own."""
        weights = _on_host(self._weights)
        shared, before = weights.pop(''), list(self.kd_weight)
        self.until.append(done)
        self.kd_weight.append(mean_of(shared))
        self.kd_on.append(sum(weight > 0 for weight in shared) / len(shared))
        for name in {**self.kd_weights, **weights}:
            self.kd_weights.setdefault(name, list(before)).append(
                mean_of(weights.get(name, shared)))
        # A branch may be distilled for the first time in a late part.
        ratios = {
            name: math.fsum(values) / len(values)
            for name, values in _on_host(self._ratios).items()
        }
        for courses, values, unknown in ((self.kd_ratio, ratios, 0.),
                                         (self.train_loss, losses, math.nan)):
            for name in {**courses, **values}:
                course = courses.setdefault(name, [])
                course += [unknown] * (len(before) - len(course))
                course.append(values.get(name, unknown))
        self.begin_part()

    def add_metrics(self, done: int, metrics: Mapping[str, Any]) -> None:
        """Note the metrics of a validation after so many epochs (or
        iterations), in place of those of the same one, which a resumed run
        repeats."""
        self.rows = [row for row in self.rows if row[self.unit] < done]
        self.rows.append({self.unit: done, **numbers(metrics)})

    def to_dict(self) -> Dict[str, Any]:
        """The courses as a record has them: ``curves``, the lists of
        :class:`RunRecordHook`'s table, and ``last``."""
        metrics = dict(self.rows[-1]) if self.rows else {}
        metrics.pop(self.unit, None)
        return dict(
            curves=columns(self.rows, self.unit),
            until=self.until,
            kd_weight=self.kd_weight,
            **{
                f'{name}.kd_weight': course
                for name, course in self.kd_weights.items()
            },
            kd_on=self.kd_on,
            kd_ratio=self.kd_ratio,
            train_loss=self.train_loss,
            last=metrics)

    def state(self) -> Dict[str, Any]:
        """What a checkpoint has to keep, as plain data."""
        part = dict(
            weights=_on_host(self._weights),
            ratios=_on_host(self._ratios),
            steps=self.steps)
        return dict({name: getattr(self, name)
                     for name in (*LISTS, *BY_NAME)},
                    part=part)

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state` gave; that of an older version lacks
        some entries."""
        for name in (*LISTS, *BY_NAME):
            setattr(self, name, state.get(name, getattr(self, name)))
        parts = len(self.kd_weight)
        self.until = self.until or [*range(1, 1 + parts)]
        self.kd_on = [math.nan] * (parts - len(self.kd_on)) + self.kd_on
        part = state.get('part')
        if part is not None:
            self.steps = part['steps']
            self._weights, self._ratios = part['weights'], part['ratios']


def _on_host(values: Mapping[str, Iterable[Any]]) -> Dict[str, Sequence[Any]]:
    return {name: to_host(of_one) for name, of_one in values.items()}
