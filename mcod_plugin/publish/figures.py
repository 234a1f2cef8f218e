"""What a run was like, as pictures."""
import os.path as osp
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from mcod_plugin.compare.figures import (BASELINE, COLORS, DISAGREEMENT,
                                         ENSEMBLE, figure_style, new_figure,
                                         save_figure)
from .ended_run import EndedRun
from .measure import worst_classes

__all__ = ['draw_branch', 'draw_cohort']

# Rows of the confusion matrix, and the most columns.
WORST = 10
MOST_COLUMNS = 18
# What a run can show of a branch by epoch.
PANELS = {
    '/top1': 'top-1 accuracy in %',
    '.loss_ce': 'cross entropy in training'
}


def draw_cohort(run: EndedRun, names: Sequence[str], matrix: np.ndarray,
                classes: Sequence[str], folder: str) -> Dict[str, str]:
    """Draw the figures of a cohort.

    Args:
        run (EndedRun): Its run.
        names (Sequence[str]): The branches.
        matrix (np.ndarray): Confusion matrix ``(C, C)`` of the ensemble.
        classes (Sequence[str]): Names of the C classes.
        folder (str): Where to put them.

    Returns:
        dict[str, str]: Captions by file. What the log does not have is left
        out.
    """
    colors = dict(zip(names, _cycle(len(names))))
    colors[ENSEMBLE] = BASELINE
    lines = {name: (run, name, color, '-') for name, color in colors.items()}
    with figure_style():
        return _write(
            folder, {
                'curves.png': (_curves(run, lines), _curves_caption(run)),
                'schedule.png':
                (_schedule(run), 'Weight of the distillation loss.'),
                'diversity.png':
                (_diversity(run), 'Share of the validation images on which '
                 'two branches differ.'),
                'confusion.png': (_confusion(matrix, classes),
                                  'What the ensemble takes its worst classes '
                                  'for.'),
            })


def draw_branch(run: EndedRun, solo: Optional[EndedRun], name: str,
                matrix: np.ndarray, classes: Sequence[str],
                folder: str) -> Dict[str, str]:
    """Draw the figures of a branch.

    Args:
        run (EndedRun): The run of its cohort.
        solo (EndedRun, optional): That of the solo baseline.
        name (str): The branch.
        matrix (np.ndarray): Its confusion matrix ``(C, C)``.
        classes (Sequence[str]): Names of the C classes.
        folder (str): Where to put them.

    Returns:
        dict[str, str]: Captions by file.
    """
    lines = {name: (run, name, COLORS[0], '-')}
    if solo is not None:
        lines[f'{name}, solo'] = (solo, name, COLORS[1], (0, (4, 1.5)))
    lines[ENSEMBLE] = (run, ENSEMBLE, BASELINE, (0, (1, 1.2)))
    with figure_style():
        return _write(
            folder, {
                'curves.png': (_curves(run, lines), _curves_caption(run)),
                'confusion.png':
                (_confusion(matrix, classes),
                 'What the network takes its worst classes for.'),
            })


def _write(folder: str, figures: Dict[str, Tuple[Any, str]]) -> Dict[str, str]:
    captions = {}
    for file, (figure, caption) in figures.items():
        if figure is not None:
            save_figure(figure, osp.join(folder, file))
            captions[file] = caption
    return captions


def _cycle(number: int) -> List[str]:
    return [COLORS[index % len(COLORS)] for index in range(number)]


def _points(run: EndedRun, key: str) -> Tuple[List[float], List[float]]:
    rows = [row for row in run.curves if key in row]
    return [row['step'] for row in rows], [row[key] for row in rows]


def _curves(run: EndedRun, lines: Dict[str, tuple]) -> Optional[Any]:
    kinds = [
        kind for kind in PANELS if any(
            _points(of, name + kind)[0] for of, name, *_ in lines.values())
    ]
    if not kinds:
        return None
    figure = new_figure(0.6 + 3.6 * len(kinds), 3.1)
    panels = figure.subplots(1, len(kinds), squeeze=False).flat
    handles = {}
    for panel, kind in zip(panels, kinds):
        for label, (of, name, color, line) in lines.items():
            steps, values = _points(of, name + kind)
            if steps:
                handles[label], = panel.plot(
                    steps,
                    values,
                    color=color,
                    linestyle=line,
                    marker='.' if len(steps) == 1 else None)
        panel.set(title=PANELS[kind], xlabel=run.unit)
        panel.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(
        handles.values(),
        handles,
        loc='outside lower center',
        ncols=min(len(handles), 5))
    return figure


def _curves_caption(run: EndedRun) -> str:
    if run.held_out == 'validation':
        return 'Accuracy on the validation data and the loss in training.'
    return 'The loss in training.'


def _schedule(run: EndedRun) -> Optional[Any]:
    steps, weights = run.weights
    if not run.distils:
        return None
    figure = new_figure(6.4, 2.1)
    panel = figure.subplots()
    edges = [0, *steps]
    panel.stairs(weights, edges, fill=True, color=COLORS[0], alpha=0.3)
    panel.stairs(weights, edges, color=COLORS[0], linewidth=1.2)
    panel.set(
        xlabel=f'{run.unit}s passed',
        ylabel='weight',
        xlim=(0, edges[-1]),
        ylim=(0, None))
    panel.grid(axis='x', visible=False)
    panel.xaxis.get_major_locator().set_params(integer=True)
    return figure


def _diversity(run: EndedRun) -> Optional[Any]:
    steps, shares = _points(run, DISAGREEMENT)
    if not steps or len(run.branches) == 1:
        return None
    figure = new_figure(4.6, 2.9)
    panel = figure.subplots()
    panel.plot(
        steps, [100 * share for share in shares],
        color=COLORS[2],
        marker='.' if len(steps) == 1 else None)
    panel.set(xlabel=run.unit, ylabel='disagreement in %', ylim=(0, None))
    panel.xaxis.get_major_locator().set_params(integer=True)
    return figure


def _confusion(matrix: np.ndarray, classes: Sequence[str]) -> Any:
    """The rows of the worst classes: what share is taken for what."""
    rows = worst_classes(matrix, WORST)
    shares = 100 * matrix[rows] / matrix[rows].sum(1, keepdims=True)
    columns = _columns(rows, shares)
    cells = shares[:, columns]
    figure = new_figure(1.9 + 0.42 * len(columns), 1.6 + 0.3 * len(rows))
    panel = figure.subplots()
    panel.imshow(cells, cmap='Blues', vmin=0, vmax=100, aspect='auto')
    for (row, column), share in np.ndenumerate(cells):
        if share >= 0.5:
            panel.text(
                column,
                row,
                f'{share:.0f}',
                ha='center',
                va='center',
                fontsize=7,
                color='white' if share > 55 else 'black')
    panel.set_xticks(
        range(len(columns)), [classes[index] for index in columns],
        rotation=60,
        ha='right',
        rotation_mode='anchor')
    panel.set_yticks(range(len(rows)), [classes[index] for index in rows])
    panel.set(xlabel='predicted class', ylabel='true class, the worst first')
    panel.set_title('share of the images of a class in %')
    panel.grid(visible=False)
    return figure


def _columns(rows: np.ndarray, shares: np.ndarray) -> List[int]:
    """The rows' own classes, then those that they are most often taken for,
    as many as there is room for."""
    columns = list(rows)
    for index in np.argsort(-shares.max(0), kind='stable'):
        if len(columns) == MOST_COLUMNS or not shares[:, index].any():
            break
        if index not in columns:
            columns.append(index)
    return columns
