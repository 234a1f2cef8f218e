"""What the metrics of a run say."""
import math
from typing import Any, Dict, List, Mapping, Sequence, Tuple

__all__ = ['DISAGREEMENT', 'ENSEMBLE', 'best_top1', 'columns', 'top1']

ENSEMBLE = 'ensemble'
DISAGREEMENT = 'diversity/disagreement'


def top1(metrics: Mapping[str, Any]) -> Dict[str, Any]:
    """Top-1 accuracy in percent by branch, the ensemble last, from metrics
    such as ``<branch>/top1``; or its curves from theirs."""
    found = {
        key[:-len('/top1')]: value
        for key, value in metrics.items() if key.endswith('/top1')
    }
    if ENSEMBLE in found:
        found[ENSEMBLE] = found.pop(ENSEMBLE)
    return found


def columns(rows: Sequence[Mapping[str, float]],
            unit: str = 'epoch') -> Dict[str, List[float]]:
    """A curve of each metric from the metrics of each validation, in which the
    epochs or iterations that were over are under ``unit``; NaN where one is
    missing."""
    names = dict.fromkeys([unit, *(name for row in rows for name in row)])
    return {name: [row.get(name, math.nan) for row in rows] for name in names}


def best_top1(
        curves: Mapping[str, Sequence[float]]) -> Dict[str, Tuple[float, int]]:
    """The best top-1 accuracy in percent of each branch, and last of the
    ensemble, and the epoch (or iteration) in which it was first reached, from
    the ``curves`` of a record. What was always NaN is left out."""
    steps = curves.get('epoch') or curves.get('iteration') or ()
    found = {}
    for name, values in top1(curves).items():
        known = [(value, step) for value, step in zip(values, steps)
                 if not math.isnan(value)]
        if known:
            found[name] = max(known, key=lambda pair: pair[0])
    return found
