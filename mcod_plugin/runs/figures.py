"""How runs are drawn: one style, and one way to draw a curve."""
from contextlib import contextmanager
from typing import (Any, Dict, Iterator, List, Mapping, Optional, Sequence,
                    Tuple)

import numpy as np

from mcod_plugin.errors import ConfigError
from mcod_plugin.utils.files import new_file

__all__ = [
    'BASELINE', 'COLORS', 'LINES', 'figure_style', 'legend_below', 'line_look',
    'new_figure', 'panels_of', 'plot_curve', 'plot_weights', 'save_figure'
]

# Colours of Okabe and Ito, which people with colour-blindness tell apart
# (jfly.uni-koeln.de/color); what the others are compared with is black. With
# more curves than colours, the line tells.
COLORS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#56B4E9', '#E69F00')
BASELINE = '#000000'
LINES = ('-', (0, (4, 1.5)), (0, (1, 1.2)))

DPI = 140

STYLE = {
    'figure.dpi': DPI,
    'font.size': 9,
    'axes.titlesize': 10,
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.grid': True,
    'axes.axisbelow': True,
    'grid.color': '#e6e6e6',
    'grid.linewidth': 0.8,
    'legend.frameon': False,
    'lines.linewidth': 1.4,
    # A class may have a dollar in its name.
    'text.parse_math': False,
}


def line_look(index: int) -> Dict[str, Any]:
    """``color`` and ``linestyle`` of one of several curves, counted from 0."""
    return dict(
        color=COLORS[index % len(COLORS)],
        linestyle=LINES[index // len(COLORS) % len(LINES)])


@contextmanager
def figure_style() -> Iterator[None]:
    """The same style whatever the user's own is. Matplotlib must be there."""
    try:
        from matplotlib import style
    except ImportError as error:
        raise ConfigError("figures need Matplotlib; pip install -e "
                          "'.[compare]' installs it") from error
    with style.context(['default', STYLE]):
        yield


def new_figure(width: float, height: float) -> Any:
    """An empty figure, its size in inches."""
    # Made without pyplot, so that neither a window nor a global is touched.
    from matplotlib.figure import Figure
    return Figure(figsize=(width, height), layout='constrained')


def panels_of(number: int, width: float, height: float,
              **kwargs) -> Tuple[Any, List[Any]]:
    """A figure of some panels, three of them beside each other, with room for
    a legend below, and the panels. The size is that of a panel in inches; for
    ``kwargs`` see :meth:`matplotlib.figure.Figure.subplots`."""
    columns = min(number, 3)
    lines = -(-number // columns)
    figure = new_figure(width * columns, height * lines + 0.6)
    panels = list(
        figure.subplots(lines, columns, squeeze=False, **kwargs).flat)
    for panel in panels[number:]:
        panel.set_axis_off()
    return figure, panels[:number]


def plot_curve(panel: Any,
               curve: Mapping[int, float],
               look: Mapping[str, Any],
               spread: Optional[Mapping[int, float]] = None) -> None:
    """Draw a curve, values by epoch or iteration of a run, or of some runs, in
    the ``color`` and, if it is not solid, ``linestyle`` of its look, with a
    band of plus and minus the spread around it, if there is any."""
    steps, values = list(curve), list(curve.values())
    panel.plot(
        steps,
        values,
        color=look['color'],
        linestyle=look.get('linestyle', '-'),
        # A line of one point is not seen.
        marker='.' if len(steps) == 1 else None)
    if spread is not None:
        panel.fill_between(
            steps, [curve[step] - spread[step] for step in steps],
            [curve[step] + spread[step] for step in steps],
            color=look['color'],
            alpha=0.15,
            linewidth=0)
    panel.xaxis.get_major_locator().set_params(integer=True)


def plot_weights(panel: Any, weights: Sequence[float], color: str,
                 edges: Sequence[int]) -> None:
    """Draw the weights of the distillation loss as a filled line of steps. The
    edges are how many epochs or iterations were over when each of them began,
    and when the last one ended."""
    panel.stairs(weights, edges, fill=True, color=color, alpha=0.3)
    panel.stairs(weights, edges, color=color, linewidth=1.2)
    panel.set_xlim(edges[0], edges[-1])
    panel.grid(axis='x', visible=False)


def legend_below(figure: Any,
                 looks: Mapping[str, Mapping[str, Any]],
                 markers: bool = False) -> None:
    """Put a legend below all panels, of ``color`` and ``linestyle``, and
    ``marker`` if that is to be shown, by name."""
    from matplotlib.lines import Line2D
    handles = [
        Line2D([], [],
               label=name,
               color=look['color'],
               linestyle=look['linestyle'],
               marker=look['marker'] if markers else None)
        for name, look in looks.items()
    ]
    # Inches that a column takes, handle and gaps included.
    column = 0.9 + 0.08 * max(map(len, looks))
    figure.legend(
        handles=handles,
        loc='outside lower center',
        ncols=max(1, min(len(handles), int(figure.get_figwidth() / column))),
        handlelength=2.6)


def save_figure(figure: Any, path: str) -> None:
    """Write a figure beside its place as a PNG file, then put it there."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert('RGB')
    # A palette is enough for lines on white, and takes a third of the space.
    image = image.quantize(256, dither=Image.Dither.NONE)
    with new_file(path) as part:
        image.save(part, format='png', optimize=True, dpi=(DPI, DPI))
