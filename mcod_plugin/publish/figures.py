"""What a run was like, as pictures."""
import os.path as osp
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from mcod_plugin.runs.curves import (SIZE, courses_of, plot_courses,
                                     plot_schedule)
from mcod_plugin.runs.figures import (BASELINE, COLORS, LINES, figure_style,
                                      legend_below, line_look, new_figure,
                                      panels_of, plot_curve, save_figure)
from mcod_plugin.runs.metrics import DISAGREEMENT, ENSEMBLE
from .trained_run import TrainedRun

__all__ = ['draw_branch', 'draw_cohort', 'worst_classes']

# Rows of the confusion matrix, and the most columns.
WORST = 10
MOST_COLUMNS = 18


def draw_cohort(run: TrainedRun, names: Sequence[str], matrix: np.ndarray,
                classes: Sequence[str], folder: str) -> Dict[str, str]:
    """Draw the figures of a cohort into a folder, with the confusion matrix
    ``(C, C)`` of the ensemble, and return captions by file. What the record
    does not have is left out."""
    lines = {
        name: (run, name, line_look(index))
        for index, name in enumerate(names)
    }
    lines[ENSEMBLE] = (run, ENSEMBLE, dict(color=BASELINE, linestyle='-'))
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


def draw_branch(run: TrainedRun, solo: Optional[TrainedRun], name: str,
                matrix: np.ndarray, classes: Sequence[str],
                folder: str) -> Dict[str, str]:
    """Draw the figures of a branch, beside those of the solo baseline, and its
    confusion matrix ``(C, C)``; see :func:`draw_cohort`."""
    lines = {name: (run, name, line_look(0))}
    if solo is not None:
        lines[f'{name}, solo'] = (solo, name,
                                  dict(color=COLORS[1], linestyle=LINES[1]))
    lines[ENSEMBLE] = (run, ENSEMBLE, dict(color=BASELINE, linestyle=LINES[2]))
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


def _curves(run: TrainedRun, lines: Dict[str, tuple]) -> Optional[Any]:
    """Some curves, by label the run, the branch and the look of each."""
    found, looks = {}, {}
    for label, (of, name, look) in lines.items():
        for title, curves in courses_of(of.record).items():
            if name in curves:
                found.setdefault(title, {})[label] = curves[name]
                looks[label] = look
    if not found:
        return None
    figure, panels = panels_of(len(found), *SIZE)
    plot_courses(panels, found, looks, run.unit)
    legend_below(figure, looks)
    return figure


def _curves_caption(run: TrainedRun) -> str:
    if run.held_out == 'validation':
        return 'Accuracy on the validation data and the loss in training.'
    return 'The loss in training.'


def _schedule(run: TrainedRun) -> Optional[Any]:
    if not run.distils:
        return None
    figure = new_figure(6.4, 2.1)
    plot_schedule(figure.subplots(), {**run.record, **run.distillation})
    return figure


def _diversity(run: TrainedRun) -> Optional[Any]:
    curves = run.record['curves']
    if DISAGREEMENT not in curves or len(run.branches) == 1:
        return None
    figure = new_figure(4.6, 2.9)
    panel = figure.subplots()
    shares = zip(curves[run.unit], curves[DISAGREEMENT])
    plot_curve(panel, {
        step: 100 * share
        for step, share in shares
    }, dict(color=COLORS[2]))
    panel.set(xlabel=run.unit, ylabel='disagreement in %', ylim=(0, None))
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


def worst_classes(matrix: np.ndarray, number: int) -> np.ndarray:
    """The classes that are recognised least often by a confusion matrix ``(C,
    C)``, at most ``number``, the worst first; of equals the lower class first.
    Classes without images are left out."""
    images = matrix.sum(1)
    share = np.diag(matrix) / np.maximum(images, 1)
    order = np.argsort(share, kind='stable')
    return order[images[order] > 0][:number]


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
