"""The record of a run: a JSON file that is written while the run trains."""
import json
import math
import os.path as osp
from numbers import Real
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

__all__ = [
    'RECORD', 'distilled', 'dose', 'dose_text', 'find_record', 'kd_weights',
    'mean_of', 'numbers', 'part_ends', 'read_record'
]

# Its name in the work directory.
RECORD = 'record.json'


def read_record(path: str) -> Dict[str, Any]:
    """Read a record, see :class:`RunRecordHook`. Raise an OSError if it cannot
    be read and a ValueError if it is no JSON object."""
    with open(path, encoding='utf-8') as file:
        record = json.load(file)
    if not isinstance(record, dict):
        raise ValueError(f'it must hold an object; got a '
                         f'{type(record).__name__}')
    return record


def find_record(work_dir: str) -> Dict[str, Any]:
    """The record of a work directory; empty if there is none that can be read,
    as of a run of MMPretrain's own."""
    try:
        return read_record(osp.join(work_dir, RECORD))
    except (OSError, ValueError):
        return {}


def kd_weights(record: Mapping[str, Any]) -> List[float]:
    """The weights of the distillation that took effect, the greatest of all
    branches: of each epoch, or of each part of a run that counts in
    iterations."""
    return list(record.get('kd_weight') or ())


def part_ends(record: Mapping[str, Any]) -> List[int]:
    """How many epochs, or iterations, were over at the end of each part that
    :func:`kd_weights` tells of. Where it is not said, a part is an epoch."""
    return list(record.get('until') or range(1, len(kd_weights(record)) + 1))


def distilled(record: Mapping[str, Any]) -> bool:
    """Whether any branch was ever distilled, at a weight above 0."""
    return any(weight > 0 for weight in kd_weights(record))


def dose(record: Mapping[str, Any]) -> Optional[Tuple[float, float]]:
    """The share of the steps of a run in which any branch was distilled, and
    the mean weight over all steps and branches. Parts of the run that were not
    recorded do not count; None if none was."""
    weights, until = kd_weights(record), part_ends(record)
    on = record.get('kd_on') or [float(weight > 0) for weight in weights]
    courses = [
        course for key, course in record.items() if key.endswith('.kd_weight')
    ] or [weights]
    parts = [
        (end - begin, share, mean_of(own)) for begin, end, share, *own in zip(
            (0, *until), until, on, *courses)
        if math.isfinite(share) and all(map(math.isfinite, own))
    ]
    length = sum(part[0] for part in parts)
    if not length:
        return None
    return tuple(
        math.fsum(part[0] * part[which] for part in parts) / length
        for which in (1, 2))


def dose_text(record: Mapping[str, Any]) -> str:
    """How much the branches were distilled, as ``'distilled in 75 % of the
    steps, mean weight 1.5'``."""
    found = dose(record)
    if found is None:
        return 'not recorded'
    share, weight = found
    if not distilled(record):
        return 'never distilled'
    # Of several schedules the share counts steps of any of them.
    most = 'at most ' * any(key.endswith('.kd_weight') for key in record)
    return (f'distilled in {most}{100 * share:.3g} % of the steps, mean '
            f'weight {weight:.3g}')


def mean_of(values: Sequence[float]) -> float:
    """A mean that is exact where all values, of which there is at least one,
    are the same."""
    if min(values) == max(values):
        return values[0]
    return math.fsum(values) / len(values)


def numbers(metrics: Mapping[str, Any]) -> Dict[str, float]:
    """Those metrics that are numbers, as Python's own."""
    return {
        key: float(value)
        for key, value in metrics.items() if isinstance(value, Real)
    }
