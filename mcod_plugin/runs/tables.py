"""Tables, for a terminal and in Markdown."""
import io
import math
from numbers import Real
from typing import Any, Dict, Mapping, Optional, Sequence, Tuple

from rich.console import Console
from rich.table import Table

from .metrics import DISAGREEMENT, ENSEMBLE, top1

__all__ = [
    'WIDTH', 'accuracy_table', 'last_accuracies', 'markdown', 'metrics_table',
    'render'
]

# Characters of a line that a terminal and a log have room for.
WIDTH = 120


def render(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for a terminal or a log, its first column flush left, the
    others flush right."""
    table = Table()
    for index, name in enumerate(header):
        table.add_column(name, justify='right' if index else 'left')
    for row in rows:
        table.add_row(*row)
    # Cells are text, even where they look like Rich's own markup.
    console = Console(
        file=io.StringIO(), width=WIDTH, markup=False, emoji=False)
    console.print(table)
    return console.file.getvalue().rstrip('\n')


def markdown(header: Sequence[str],
             rows: Sequence[Sequence[str]],
             left: int = 1) -> str:
    """A table in Markdown, whose cells are in it as well, that can also be
    read as it is. So many columns, from the first on, are flush left; the
    others are flush right."""
    flush = [
        str.ljust if index < left else str.rjust
        for index in range(len(header))
    ]
    widths = [max(2, *map(len, column)) for column in zip(header, *rows)]
    lines = [[
        place(cell, width) for place, width, cell in zip(flush, widths, row)
    ] for row in (header, *rows)]
    lines.insert(
        1, [place(':', width, '-') for place, width in zip(flush, widths)])
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def accuracy_table(last: Mapping[str, float],
                   best: Optional[Dict[str, Tuple[float, int]]] = None,
                   unit: str = 'epoch') -> str:
    """Accuracy of each branch and of the ensemble in percent, for a terminal:
    by the metrics of the last evaluation, NaN of a branch that has diverged,
    and by :func:`~mcod_plugin.runs.metrics.best_top1`. The unit is what is
    counted instead of epochs."""
    rows = []
    accuracies = top1(last)
    for name, accuracy in accuracies.items():
        row = [name, _percent(accuracy)]
        if f'{name}/top5' in last:
            row.append(_percent(last[f'{name}/top5']))
        if best:
            row.append('-' if name not in best else
                       f'{best[name][0]:.2f} ({unit} {best[name][1]})')
        rows.append(row)
    header = ['', 'top-1 %']
    if any(key.endswith('/top5') for key in last):
        header.append('top-5 %')
    if best:
        header.append('best top-1 %')
    table = render(header, rows)
    # A lone branch, whose ensemble it is, has none to differ from.
    counting = [value for value in accuracies.values() if value == value]
    if DISAGREEMENT in last and len(counting) > 2:
        table += ('\nThe branches disagree on '
                  f'{100 * last[DISAGREEMENT]:.1f} % of the images.')
    return table


def metrics_table(metrics: Mapping[str, float]) -> str:
    """What was measured of each branch and of the ensemble, from metrics such
    as ``<branch>/mAP``, for a terminal: a row for each branch, the ensemble
    last. What is no number is left out."""
    cells: Dict[str, Dict[str, str]] = {}
    for key, value in metrics.items():
        name, _, metric = key.rpartition('/')
        if name and isinstance(value, Real):
            cells.setdefault(name, {})[metric] = f'{value:.4g}'
    if ENSEMBLE in cells:
        cells[ENSEMBLE] = cells.pop(ENSEMBLE)
    columns = dict.fromkeys(key for row in cells.values() for key in row)
    return render(['', *columns],
                  [[name, *(row.get(key, '') for key in columns)]
                   for name, row in cells.items()])


def last_accuracies(records: Mapping[str, Mapping[str, Any]]) -> str:
    """The last top-1 accuracies of some runs side by side, by the names of
    their records, for a terminal: a row for each run, and a column for each
    branch that one of them has; the ensemble comes last."""
    found = {run: top1(record['curves']) for run, record in records.items()}
    # The ensemble comes last whatever the branches are.
    order = top1({
        f'{name}/top1': None
        for curves in found.values() for name in curves
    })
    rows = []
    for run, curves in found.items():
        record = records[run]
        unit = record.get('unit', 'epoch')
        steps = record['curves'].get(unit) or ['']
        rows.append([
            run, f'{unit} {steps[-1]}',
            *(_last(curves.get(name)) for name in order)
        ])
    return render(['top-1 %', 'after', *order], rows)


def _last(curve: Optional[Sequence[float]]) -> str:
    return _percent(curve[-1]) if curve else ''


def _percent(value: float) -> str:
    return 'diverged' if math.isnan(value) else f'{value:.2f}'
