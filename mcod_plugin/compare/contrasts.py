"""What a study declares to ask, and what it answers."""
from typing import Mapping, Optional, Sequence, Tuple

from .statistics import (Contrast, TwoWay, holm, seeds_for_level,
                         seeds_needed)

__all__ = ['ALPHA', 'MARGIN', 'contrast_table', 'text_of']

# Methods that differ by less, in percentage points, are called level.
MARGIN = 0.3
# Differences for which the number of seeds is told.
SOUGHT = (0.3, 0.5)
# The greatest adjusted p that is told as a finding.
ALPHA = 0.05


def contrast_table(
        outcome: str, values: Mapping[str, Mapping[int, float]],
        pairs: Sequence[Tuple[str, str]],
        question: str = '') -> Optional[Tuple[str, list, list]]:
    """Title, header and rows of the differences of some pairs of methods, of
    each the first one minus the second, which are one family of tests. The
    values are accuracies in percent by method and seed, of an outcome such as
    ``'the ensemble'``; the question stands in the title. None if there is
    nothing to tell the noise from."""
    model = TwoWay(values)
    found = {pair: model.difference(*pair) for pair in pairs}
    tested = {
        pair
        for pair, contrast in found.items()
        if contrast is not None and contrast.error is not None
    }
    if not tested:
        return None
    # A pair that has no runs yet, or one, is of the family all the same.
    values_of_p = [
        contrast.p_value() if pair in tested else 1.
        for pair, contrast in found.items()
    ]
    rows = []
    for (pair, contrast), p, adjusted in zip(found.items(), values_of_p,
                                             holm(values_of_p)):
        row = ['`{}` - `{}`'.format(*pair), text_of(contrast)]
        if pair not in tested:
            row += ['-'] * 4
        else:
            alone = TwoWay({method: values[method] for method in pair})
            row += [
                _text_of_interval(alone.difference(*pair)),
                _text_of_p(p),
                _text_of_p(adjusted),
                _finding(contrast, adjusted)
            ]
        rows.append(row)
    # Others say nothing of the noise.
    methods = sum(len(own) > 1 for own in values.values())
    needed = ' and '.join(
        f'{sought} points takes '
        f'{seeds_needed(model.sd, methods, sought) or "over 1000"} seeds'
        for sought in SOUGHT)
    level = seeds_for_level(model.sd, methods, MARGIN) or 'over 1000'
    asked = question and f' to tell {question}'
    title = (f'**Contrasts of {outcome}** that the study declares{asked}, in '
             'percentage points [95 % confidence interval], with p adjusted '
             'for their number by Holm; level means that the difference is '
             f'below {MARGIN} by two one-sided tests, whose p is not '
             'adjusted. The noise of all methods together has a standard '
             f'deviation of {model.sd:.2f}, so that to see {needed}, and to '
             f'find equal methods level {level}, in four of five studies and '
             'by one test. The interval of a pair alone takes no noise of '
             'others for its own')
    return title, [
        'contrast', 'difference', 'pair alone', 'p', 'adjusted p', 'finding'
    ], rows


def text_of(contrast: Optional[Contrast]) -> str:
    """A difference in words, as ``'+1.23 [0.45, 2.01]'``, without an interval
    if there is none; ``'-'`` for None."""
    if contrast is None:
        return '-'
    # What ends in half a hundredth is not to be rounded by the order in which
    # it was added up.
    text = f'{round(contrast.value, 10):+.2f}'
    if contrast.error is not None:
        text += f' {_text_of_interval(contrast)}'
    return text


def _text_of_interval(contrast: Optional[Contrast]) -> str:
    interval = contrast and contrast.interval()
    return '[{:.2f}, {:.2f}]'.format(*interval) if interval else '-'


def _text_of_p(p: float) -> str:
    return '< 0.001' if p < 0.001 else f'{p:.3f}'


def _finding(contrast: Contrast, p: float) -> str:
    if p < ALPHA:
        return 'better' if contrast.value > 0 else 'worse'
    return 'level' if contrast.p_level(MARGIN) < ALPHA else 'open'
