"""What the metrics of a run say."""
import math
from typing import Any, Dict, List, Mapping, Sequence, Tuple

__all__ = ['DISAGREEMENT', 'ENSEMBLE', 'best_top1', 'columns', 'top1']

ENSEMBLE = 'ensemble'
DISAGREEMENT = 'diversity/disagreement'


def top1(metrics: Mapping[str, Any]) -> Dict[str, Any]:
    """Top-1 accuracy by branch, the ensemble last.

    Args:
        metrics (Mapping[str, Any]): Metrics such as ``<branch>/top1``, or the
            curves of them.

    Returns:
        dict[str, Any]: Accuracy in percent, or its curve.
    """
    found = {
        key[:-len('/top1')]: value
        for key, value in metrics.items() if key.endswith('/top1')
    }
    if ENSEMBLE in found:
        found[ENSEMBLE] = found.pop(ENSEMBLE)
    return found


def columns(rows: Sequence[Mapping[str, float]],
            unit: str = 'epoch') -> Dict[str, List[float]]:
    """Turn the metrics of each validation into a curve of each metric.

    Args:
        rows (Sequence[Mapping[str, float]]): By validation the metrics, and
            how many epochs or iterations were over, under ``unit``.
        unit (str): ``'epoch'`` or ``'iteration'``. Defaults to ``'epoch'``.

    Returns:
        dict[str, list[float]]: By name as many numbers as there are rows; NaN
        where a row lacks it.
    """
    names = dict.fromkeys([unit, *(name for row in rows for name in row)])
    return {name: [row.get(name, math.nan) for row in rows] for name in names}


def best_top1(
        curves: Mapping[str, Sequence[float]]) -> Dict[str, Tuple[float, int]]:
    """The best top-1 accuracy, and when it was first reached.

    Args:
        curves (Mapping[str, Sequence[float]]): The ``curves`` of a record:
            ``epoch`` (or ``iteration``), the numbers of those that were over
            at each validation, and the metrics by name.

    Returns:
        dict[str, tuple[float, int]]: For each branch, and last for the
        ensemble, the accuracy in percent and the epoch (or iteration). What
        was always NaN is left out.
    """
    steps = curves.get('epoch') or curves.get('iteration') or ()
    found = {}
    for name, values in top1(curves).items():
        known = [(value, step) for value, step in zip(values, steps)
                 if not math.isnan(value)]
        if known:
            found[name] = max(known, key=lambda pair: pair[0])
    return found
