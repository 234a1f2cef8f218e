"""The course of a run as a picture, and those of several side by side."""
import math
from typing import Any, Dict, Mapping, Sequence

from .figures import (BASELINE, COLORS, figure_style, legend_below, line_look,
                      panels_of, plot_curve, plot_weights, save_figure)
from .metrics import ENSEMBLE, top1
from .record import distilled, kd_weights, part_ends

__all__ = [
    'SIZE', 'courses_of', 'draw_run', 'draw_runs', 'plot_courses',
    'plot_schedule'
]

# Width and height of a panel in inches.
SIZE = 3.9, 2.5
ACCURACY = 'top-1 accuracy in %'

# Values by epoch or iteration, by the name of the line and the panel's title.
Panels = Dict[str, Dict[str, Dict[int, float]]]


def courses_of(record: Mapping[str, Any]) -> Panels:
    """Accuracy and loss of each branch and of the ensemble in a run, as far
    as they are known."""
    until = record.get('until') or ()
    found = {
        ACCURACY: _accuracy(record),
        'cross entropy in training': {
            name: dict(zip(until, losses))
            for name, losses in (record.get('train_loss') or {}).items()
        }
    }
    return {title: curves for title, curves in found.items() if curves}


def plot_courses(axes: Sequence[Any], panels: Panels,
                 looks: Mapping[str, Mapping[str, Any]], unit: str) -> None:
    """Draw a panel after the other into Matplotlib's axes, each line as
    :func:`plot_curve` does by its look. The unit is ``'epoch'`` or
    ``'iteration'``."""
    for axis, (title, curves) in zip(axes, panels.items()):
        for name, curve in curves.items():
            plot_curve(axis, curve, looks[name])
        axis.set(title=title, xlabel=unit)


def plot_schedule(axis: Any, record: Mapping[str, Any]) -> None:
    """Draw the weights of the distillation as they took effect in a run."""
    plot_weights(axis, kd_weights(record), COLORS[0], [0, *part_ends(record)])
    _finish(axis, record)


def draw_run(record: Mapping[str, Any], path: str) -> bool:
    """Draw accuracy and loss of each branch, and the schedule as it took
    effect, from the record of a run or what of it is known so far, into a PNG
    file. Returned is whether there was anything to draw."""
    found = courses_of(record)
    if not found:
        return False
    names = dict.fromkeys(name for curves in found.values() for name in curves)
    names.pop(ENSEMBLE, None)
    looks = {name: line_look(index) for index, name in enumerate(names)}
    if ENSEMBLE in found.get(ACCURACY, ()):
        looks[ENSEMBLE] = dict(color=BASELINE, linestyle='-')
    with figure_style():
        figure, panels = panels_of(len(found) + distilled(record), *SIZE)
        plot_courses(panels, found, looks, _unit(record))
        if distilled(record):
            plot_schedule(panels[-1], record)
        legend_below(figure, looks)
        save_figure(figure, path)
    return True


def draw_runs(records: Mapping[str, Mapping[str, Any]], path: str) -> bool:
    """Draw the accuracy of each branch and of the ensemble in several runs,
    and their schedules as they took effect, from their records by name, into a
    PNG file. Returned is whether there was anything to draw."""
    curves = {label: _accuracy(record) for label, record in records.items()}
    names = dict.fromkeys(name for run in curves.values() for name in run)
    if not names:
        return False
    if ENSEMBLE in names:
        names[ENSEMBLE] = names.pop(ENSEMBLE)
    looks = {label: line_look(index) for index, label in enumerate(records)}
    schedules = {
        label: record
        for label, record in records.items() if distilled(record)
    }
    unit = _unit(next(iter(records.values())))
    with figure_style():
        figure, panels = panels_of(len(names) + bool(schedules), *SIZE)
        plot_courses(
            panels, {
                f'{name}, {ACCURACY}': {
                    label: run[name]
                    for label, run in curves.items() if name in run
                }
                for name in names
            }, looks, unit)
        for label, record in schedules.items():
            panels[-1].stairs(
                kd_weights(record), [0, *part_ends(record)],
                baseline=None,
                **looks[label])
        if schedules:
            _finish(panels[-1], record)
        legend_below(figure, looks)
        save_figure(figure, path)
    return True


def _finish(panel: Any, record: Mapping[str, Any]) -> None:
    """What a panel of weights has besides them."""
    panel.set(
        title='weight of the distillation',
        xlabel=f'{_unit(record)}s passed',
        ylim=(0, None))
    panel.xaxis.get_major_locator().set_params(integer=True)


def _unit(record: Mapping[str, Any]) -> str:
    return 'iteration' if 'iteration' in record['curves'] else 'epoch'


def _accuracy(record: Mapping[str, Any]) -> Dict[str, Dict[int, float]]:
    """Top-1 accuracy by name and step, as far as it is a number."""
    curves = record['curves']
    found = {
        name: {
            step: value
            for step, value in zip(curves[_unit(record)], values)
            if not math.isnan(value)
        }
        for name, values in top1(curves).items()
    }
    return {name: curve for name, curve in found.items() if curve}
