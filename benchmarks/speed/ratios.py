"""What the scores of the contenders say about the cohort."""
import re
from typing import Dict, Iterable, List, Mapping, Optional, Sequence

from .score import Score

__all__ = ['growth_ratios', 'ratios']

Ratios = Dict[str, List[float]]


def ratios(scores: Mapping[str, Score],
           branches: Sequence[str],
           iterations: int,
           val_images: int,
           variants: Iterable[str] = ()) -> Ratios:
    """How the cohort compares with its branches alone.

    The times of a ratio are those of one round, so that a machine that is
    slower for a while counts on both sides.

    Args:
        scores (dict[str, Score]): The scores by contender. A ratio that lacks
            one of its contenders is left out.
        branches (Sequence[str]): Names of the branches.
        iterations (int): Iterations of an epoch.
        val_images (int): Images of a validation; 0 if there is none.
        variants (Iterable[str]): Names of other configs of the cohort.

    Returns:
        dict[str, list[float]]: The ratios by name, one value for each round;
        of memory a single one.
    """
    bare = [f'bare/{name}' for name in branches]
    found = {
        'runner/on : sum of bare':
        _divide(_seconds(scores, ['runner/on']), _seconds(scores, bare)),
        'step/on : sum of bare':
        _divide(_seconds(scores, ['step/on']), _seconds(scores, bare)),
        'step/on : step/off':
        _divide(_seconds(scores, ['step/on']), _seconds(scores, ['step/off'])),
        'epoch of cohort : epochs of solos':
        _divide(
            _epochs(scores, ['runner/on'], ['val/cohort'], iterations,
                    val_images),
            _epochs(scores, [f'solo/{name}' for name in branches],
                    [f'val/{name}' for name in branches], iterations,
                    val_images)),
        'images/s of data/cohort : best of data/toolbox':
        _divide(
            _best_seconds(scores, 'data/toolbox-'),
            _seconds(scores, ['data/cohort'])),
        'memory of step/on : sum of bare':
        _divide(_memory(scores, ['step/on']), _memory(scores, bare)),
    }
    for name in variants:
        found[f'runner/{name} : runner/on'] = _divide(
            _seconds(scores, [f'runner/{name}']),
            _seconds(scores, ['runner/on']))
    return {name: values for name, values in found.items() if values}


def growth_ratios(scores: Mapping[str, Score]) -> Ratios:
    """How time and memory grow with the number of equal branches.

    Args:
        scores (dict[str, Score]): The scores of ``growth/1`` and others.

    Returns:
        dict[str, list[float]]: Of each other cohort, its time and memory as a
        multiple of those of as many cohorts of one; see :func:`ratios`.
    """
    found = {}
    for what, measure in (('time', _seconds), ('memory', _memory)):
        for name in scores:
            number = int(re.sub(r'\D', '', name))
            if number > 1:
                found[f'{what} of {number} : {number} x {what} of 1'] = (
                    _divide(
                        measure(scores, [name]),
                        measure(scores, ['growth/1'] * number)))
    return {name: values for name, values in found.items() if values}


def _seconds(scores: Mapping[str, Score],
             names: Sequence[str],
             per_image: bool = False) -> Optional[List[float]]:
    """Seconds of a step, or of an image, of all of them together, by
    round."""
    if not all(name in scores for name in names):
        return None
    rows = [[
        seconds / (scores[name].images if per_image else 1)
        for seconds in scores[name].seconds
    ] for name in names]
    return [sum(values) for values in zip(*rows)]


def _epochs(scores: Mapping[str, Score], training: Sequence[str],
            validation: Sequence[str], iterations: int,
            val_images: int) -> Optional[List[float]]:
    """Seconds of an epoch of all of them together, by round."""
    train = _seconds(scores, training)
    val = _seconds(scores, validation, per_image=True)
    if train and not val_images:
        val = [0.] * len(train)
    if not train or not val:
        return None
    return [
        iterations * step + val_images * image
        for step, image in zip(train, val)
    ]


def _best_seconds(scores: Mapping[str, Score],
                  prefix: str) -> Optional[List[float]]:
    """Seconds of a step of the fastest of them, by round."""
    rivals = [
        score.seconds for name, score in scores.items()
        if name.startswith(prefix)
    ]
    return [min(values) for values in zip(*rivals)] or None


def _memory(scores: Mapping[str, Score],
            names: Sequence[str]) -> Optional[List[float]]:
    """Peak memory of all of them, in bytes."""
    peaks = [scores[name].peak_bytes for name in names if name in scores]
    if len(peaks) < len(names) or not all(peaks):
        return None
    return [float(sum(peaks))]


def _divide(values: Optional[List[float]],
            others: Optional[List[float]]) -> Optional[List[float]]:
    if not values or not others:
        return None
    return [value / other for value, other in zip(values, others)]
