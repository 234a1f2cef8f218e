"""What a study found, as pictures."""
import os
import os.path as osp
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence

from mcod_plugin.errors import check_choice
from mcod_plugin.runs.figures import (BASELINE, figure_style, legend_below,
                                      line_look, new_figure, panels_of,
                                      plot_curve, plot_weights, save_figure)
from mcod_plugin.runs.metrics import DISAGREEMENT, ENSEMBLE
from .results import (Results, all_runs, frozen_branches, kd_ratios, last,
                      steps, trained_branches, unit)
from .statistics import Contrast, Estimate, TwoWay, estimate

__all__ = ['draw']

# Bands of more methods than that would hide each other.
MOST_BANDS = 6
# Gains beyond this many points are drawn on a logarithmic scale, but for those
# below the second number.
WIDE, LINEAR = 10, 3

# Their number and that of the colors have no divisor in common, so that many
# methods differ in one or the other.
MARKERS = 'osDv^<>PXph*d'

Looks = Dict[str, Dict[str, Any]]


def draw(results: Results, baseline: str, folder: str) -> List[str]:
    """Draw the figures of a study into a folder, which is made if it is not
    there, and return the names of the files. Gains refer to the baseline.

    ================== =====================================================
    file               shows
    ================== =====================================================
    ``curves.png``     top-1 accuracy of each branch and of the ensemble in
                       the last two thirds of the epochs: mean over seeds,
                       and for up to six methods a band of one standard
                       deviation
    ``gain.png``       gain of each of them over the baseline at the end,
                       with its 95 % confidence interval, and of every seed
    ``diversity.png``  disagreement of the branches by epoch, and at the end
                       against accuracy
    ``schedule.png``   weight of the distillation loss by epoch
    ``pull.png``       how hard the distillation pulls at each branch against
                       its own loss, in the epochs that distil
    ================== =====================================================

    A figure is left out if no run has what it shows. Equal results give
    equal files.
    """
    check_choice('baseline', baseline, results)
    looks = _looks(results, baseline)
    results = {method: runs for method, runs in results.items() if runs}
    if not results:
        return []
    names = []
    with figure_style():
        figures = dict(
            curves=_curves(results, looks),
            gain=_gain(results, baseline, looks),
            diversity=_diversity(results, looks),
            schedule=_schedule(results, looks),
            pull=_pull(results, looks))
        os.makedirs(folder, exist_ok=True)
        for name, figure in figures.items():
            if figure is not None:
                names.append(f'{name}.png')
                save_figure(figure, osp.join(folder, names[-1]))
    return names


def _looks(results: Results, baseline: str) -> Looks:
    """Colour, line and marker of each method, the same in all figures."""
    looks = {}
    for index, method in enumerate(name for name in results
                                   if name != baseline):
        looks[method] = dict(
            line_look(index), marker=MARKERS[index % len(MARKERS)])
    looks[baseline] = dict(color=BASELINE, linestyle='-', marker='o')
    return {method: looks[method] for method in results}


def _curves(results: Results, looks: Looks) -> Optional[Any]:
    curves = {
        name: _by_epoch(results, f'{name}/top1')
        for name in (*all_runs(results)[0]['branches'], ENSEMBLE)
    }
    if not any(points for of_one in curves.values()
               for points in of_one.values()):
        return None
    figure, panels = panels_of(len(curves), 3.2, 2.7)
    for panel, (name, of_one) in zip(panels, curves.items()):
        # Beside the steep beginning no method would differ.
        _plot_estimates(panel, of_one, looks, skip=1 / 3)
        panel.set(title=name, xlabel=unit(all_runs(results)[0]))
    for panel in panels[::3]:
        panel.set_ylabel('top-1 accuracy in %')
    if max(map(len, results.values())) > 1:
        band = '; band: one standard deviation'
        figure.suptitle(
            'mean over seeds' + band * (len(results) <= MOST_BANDS),
            fontsize=9)
    _legend(figure, results, looks)
    return figure


def _plot_estimates(panel: Any,
                    curves: Dict[str, Dict[int, Estimate]],
                    looks: Looks,
                    skip: float = 0.) -> None:
    """Means over seeds, with a band of one standard deviation."""
    for method, points in curves.items():
        shown = list(points.items())[int(skip * len(points)):]
        spreads = {epoch: point.sd for epoch, point in shown}
        banded = len(curves) <= MOST_BANDS and None not in spreads.values()
        plot_curve(panel, {
            epoch: point.mean
            for epoch, point in shown
        }, looks[method], spreads if banded else None)


def _by_epoch(results: Results,
              key: str,
              scale: float = 1.) -> Dict[str, Dict[int, Estimate]]:
    """A metric over seeds, times ``scale``, by method and by the epochs (or
    iterations) that all of its runs have."""
    return {
        method:
        _over_seeds([
            dict(zip(run['curves'][unit(run)], run['curves'][key]))
            for run in runs if key in run['curves']
        ], scale)
        for method, runs in results.items()
    }


def _over_seeds(curves: Sequence[Dict[int, float]],
                scale: float = 1.) -> Dict[int, Estimate]:
    """The epochs that all curves have."""
    return {
        epoch: estimate(scale * curve[epoch] for curve in curves)
        for epoch in (curves[0] if curves else ())
        if all(epoch in curve for curve in curves)
    }


def _gain(results: Results, baseline: str, looks: Looks) -> Optional[Any]:
    methods = [method for method in results if method != baseline]
    if baseline not in results or not methods:
        return None
    names = [*results[baseline][0]['branches'], ENSEMBLE]
    figure = new_figure(1.2 + 2.1 * len(names), 1.1 + 0.3 * len(methods))
    panels = figure.subplots(1, len(names), sharex=True, sharey=True)
    for panel, name in zip(panels, names):
        panel.axvline(0, color=BASELINE, linewidth=1)
        values = {
            method: last(runs, f'{name}/top1')
            for method, runs in results.items()
            if name not in frozen_branches(runs)
        }
        model = TwoWay(values)
        for row, method in enumerate(methods):
            if method in values:
                _plot_gain(panel, row,
                           model.difference(method, baseline), values[method],
                           values.get(baseline, {}), looks[method]['color'])
            else:
                panel.text(
                    0.5,
                    row,
                    'frozen',
                    color='#808080',
                    ha='center',
                    va='center',
                    transform=panel.get_yaxis_transform())
        panel.set_title(name)
        panel.grid(axis='y', visible=False)
    panels[0].set_yticks(range(len(methods)), methods)
    panels[0].set_ylim(len(methods) - 0.5, -0.5)
    low, high = (
        pick(pick(panel.dataLim.intervalx) for panel in panels)
        for pick in (min, max))
    label = f'gain in top-1 accuracy over {baseline}, in percentage points'
    if max(-low, high) > WIDE:
        # One method that fails must not make dots of all others' gains.
        panels[0].set_xscale('symlog', linthresh=LINEAR, linscale=1)
        limits = min(1.5 * low, -LINEAR), max(1.5 * high, LINEAR)
        panels[0].set_xlim(limits)
        panels[0].set_xticks([
            value for value in (-30, -10, -LINEAR, 0, LINEAR, 10, 30)
            if limits[0] < value < limits[1]
        ])
        panels[0].xaxis.set_major_formatter('{x:.0f}')
        label += f', logarithmic beyond {LINEAR:.0f}'
    if max(map(len, results.values())) > 1:
        label += '\nline: 95 % confidence interval of the mean; dots: seeds'
    figure.supxlabel(label, fontsize=9)
    return figure


def _plot_gain(panel: Any, row: int, gain: Optional[Contrast],
               values: Mapping[int, float], base: Mapping[int, float],
               color: str) -> None:
    from matplotlib.lines import Line2D
    seeds = [seed for seed in values if seed in base]
    if gain is None or not seeds:
        return
    panel.plot(gain.value, row, marker='o', markersize=5.5, color=color)
    interval = gain.interval()
    if interval is not None:
        line = Line2D(interval, (row, row), color=color, linewidth=1.6)
        # One that little is known of may be so long that gains were dots
        # beside it: it has no say in what is seen, and runs out of the
        # picture.
        (panel.add_line if gain.freedom > 1 else panel.add_artist)(line)
        panel.plot([values[seed] - base[seed] for seed in seeds],
                   [row + 0.28] * len(seeds),
                   marker='o',
                   markersize=2.5,
                   linestyle='none',
                   color=color)


def _diversity(results: Results, looks: Looks) -> Optional[Any]:
    results = {
        method: runs
        for method, runs in results.items() if last(runs, DISAGREEMENT)
    }
    if not results:
        return None
    figure = new_figure(9.6, 3.4)
    epochs, *panels = figure.subplots(1, 3)
    _plot_estimates(epochs, _by_epoch(results, DISAGREEMENT, 100), looks)
    epochs.set(
        title='during training',
        xlabel=unit(all_runs(results)[0]),
        ylabel='disagreement of the branches in %')
    # As in the tables, a frozen branch counts in no mean.
    groups = {
        'mean of the branches': trained_branches,
        ENSEMBLE: lambda runs: [ENSEMBLE]
    }
    for panel, (title, names_of) in zip(panels, groups.items()):
        for method, runs in results.items():
            keys = [f'{name}/top1' for name in names_of(runs)]
            x = estimate(100 * share
                         for share in last(runs, DISAGREEMENT).values())
            y = estimate(last(runs, *keys).values())
            if y is None:
                continue  # No loss was noted of any branch.
            panel.errorbar(
                x.mean,
                y.mean,
                xerr=x.sd,
                yerr=y.sd,
                color=looks[method]['color'],
                marker=looks[method]['marker'],
                elinewidth=0.8)
        panel.set(
            title=f'{title}, at the end',
            xlabel='disagreement of the branches in %',
            ylabel='top-1 accuracy in %')
    _legend(figure, results, looks, markers=True)
    return figure


def _schedule(results: Results, looks: Looks) -> Optional[Any]:
    # One strip for each method: many share their weights, and lines would
    # hide each other.
    first = {
        method: runs[0]
        for method, runs in results.items() if runs[0]['kd_weight']
    }
    if not first:
        return None
    top = max(max(run['kd_weight']) for run in first.values()) or 1
    figure = new_figure(6.4, 0.8 + 0.42 * len(first))
    panels = figure.subplots(len(first), 1, sharex=True, squeeze=False)
    for panel, (method, run) in zip(panels.flat, first.items()):
        weights = run['kd_weight']
        plot_weights(panel, weights, looks[method]['color'],
                     [0, *steps(run, len(weights))])
        panel.set_ylim(0, 1.15 * top)
        panel.set_yticks((0, top), ('0', f'{top:.3g}'))
        panel.set_ylabel(
            method, rotation=0, ha='right', va='center', labelpad=4)
    panels.flat[-1].set_xlabel(unit(all_runs(results)[0]))
    figure.suptitle('weight of the distillation loss', fontsize=10)
    return figure


def _pull(results: Results, looks: Looks) -> Optional[Any]:
    names = all_runs(results)[0]['branches']
    points = {
        name: {
            method: _over_seeds([kd_ratios(run, name) for run in runs])
            for method, runs in results.items() if all(
                kd_ratios(run, name) for run in runs)
        }
        for name in names
    }
    points = {name: found for name, found in points.items() if found}
    if not points:
        return None
    from matplotlib.ticker import NullFormatter

    figure, panels = panels_of(len(points), 3.6, 2.7, sharey=True)
    for panel, (name, found) in zip(panels, points.items()):
        _plot_estimates(panel, found, looks)
        panel.set(
            title=name, xlabel=unit(all_runs(results)[0]), yscale='log')
    for panel in panels[::3]:
        panel.set_ylabel('gradient of distillation / own loss')
        # Matplotlib's own labels of such an axis are formulas, which no text
        # here is.
        panel.yaxis.set_major_formatter('{x:g}')
        low, high = panel.get_ylim()
        panel.yaxis.set_minor_formatter('{x:g}' if high <
                                        10 * low else NullFormatter())
    drawn = {method for found in points.values() for method in found}
    _legend(figure, [method for method in results if method in drawn], looks)
    return figure


def _legend(figure: Any,
            methods: Iterable[str],
            looks: Looks,
            markers: bool = False) -> None:
    legend_below(figure, {method: looks[method]
                          for method in methods}, markers)
