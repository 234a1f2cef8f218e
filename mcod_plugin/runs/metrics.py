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


def columns(rows: Sequence[Mapping[str, float]]) -> Dict[str, List[float]]:
    """Turn the metrics of each validation into a curve of each metric.

    Args:
        rows (Sequence[Mapping[str, float]]): By validation ``epoch`` and
            metrics.

    Returns:
        dict[str, list[float]]: By name as many numbers as there are rows; NaN
        where a row lacks it.
    """
    names = dict.fromkeys(['epoch', *(name for row in rows for name in row)])
    return {name: [row.get(name, math.nan) for row in rows] for name in names}


def best_top1(
        curves: Mapping[str, Sequence[float]]) -> Dict[str, Tuple[float, int]]:
    """The best top-1 accuracy, and when it was first reached.

    Args:
        curves (Mapping[str, Sequence[float]]): The ``curves`` of a record:
            ``epoch``, the numbers of epochs (or iterations) that were
            finished at each validation, and the metrics by name.

    Returns:
        dict[str, tuple[float, int]]: For each branch, and last for the
        ensemble, the accuracy in percent and the epoch. What was always NaN
        is left out.
    """
    found = {}
    for name, values in top1(curves).items():
        known = [(value, epoch)
                 for value, epoch in zip(values, curves['epoch'])
                 if not math.isnan(value)]
        if known:
            found[name] = max(known, key=lambda pair: pair[0])
    return found
