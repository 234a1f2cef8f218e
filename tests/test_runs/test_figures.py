import os

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.text import Text
from PIL import Image

from mcod_plugin.runs.figures import (figure_style, legend_below, line_look,
                                      new_figure, panels_of, plot_curve,
                                      plot_weights, save_figure)


def test_curve_and_band():
    figure, (panel, ) = panels_of(1, 4., 3.)
    look = line_look(0)
    plot_curve(panel, {2: 40., 4: 50.}, look, {2: 1., 4: 3.})
    line, = panel.lines
    assert line.get_xydata().tolist() == [[2., 40.], [4., 50.]]
    assert to_hex(line.get_color(), keep_alpha=False) == look['color'].lower()
    band, = panel.collections
    corners = {tuple(point) for point in band.get_paths()[0].vertices}
    assert {(2., 39.), (2., 41.), (4., 47.), (4., 53.)} <= corners


def test_curve_of_one_point_is_seen():
    figure, panels = panels_of(2, 4., 3.)
    plot_curve(panels[0], {1: 40.}, line_look(0))
    plot_curve(panels[1], {1: 40., 2: 41.}, line_look(0))
    markers = [panel.lines[0].get_marker() for panel in panels]
    assert markers == ['.', 'None']
    assert not panels[0].collections


def test_weights_are_steps():
    edges = [0, 2, 5, 6]
    panel = new_figure(4., 3.).subplots()
    plot_weights(panel, [0., .5, 1.], '#0072B2', edges)
    assert panel.get_xlim() == (edges[0], edges[-1])
    assert len(panel.patches) == 2
    for patch in panel.patches:
        values, found, _ = patch.get_data()
        assert list(values) == [0., .5, 1.] and list(found) == edges


@pytest.mark.parametrize('number, shape', [(1, (1, 1)), (3, (1, 3)),
                                           (4, (2, 3)), (7, (3, 3))])
def test_panels(number, shape):
    figure, panels = panels_of(number, 3., 2.)
    assert len(panels) == number
    assert all(panel.axison for panel in panels)
    assert panels[0].get_gridspec().get_geometry() == shape
    assert sum(not panel.axison
               for panel in figure.axes) == shape[0] * shape[1] - number
    assert figure.get_size_inches().tolist() == pytest.approx(
        [3. * shape[1], 2. * shape[0] + .6])


def test_curves_are_told_apart():
    looks = {(look['color'], look['linestyle'])
             for look in map(line_look, range(18))}
    assert len(looks) == 18


@pytest.mark.parametrize('width', [3., 10.])
def test_names_fit_into_the_figure(width):
    figure = new_figure(width, 4.)
    figure.subplots()
    legend_below(
        figure, {f'balanced_{index}': line_look(index)
                 for index in range(10)})
    figure.draw_without_rendering()
    box = figure.legends[0].get_window_extent()
    assert 0 <= box.x0 < box.x1 <= figure.bbox.width


def test_equal_figures_give_equal_files(tmp_path):
    contents = []
    for name, own in (('a.png', {}), ('b.png', {'lines.linewidth': 9})):
        with matplotlib.rc_context(own), figure_style():
            figure, (panel, ) = panels_of(1, 4., 3.)
            plot_curve(panel, {1: 1., 2: 3.}, line_look(1))
            save_figure(figure, str(tmp_path / name))
        contents.append((tmp_path / name).read_bytes())
    assert contents[0] == contents[1]
    assert sorted(os.listdir(tmp_path)) == ['a.png', 'b.png']
    pixels = np.asarray(Image.open(tmp_path / 'a.png').convert('RGB'))
    near = np.abs(pixels.astype(int) - (213, 94, 0)).max(-1) < 4
    assert near.sum() > 20


@pytest.mark.parametrize('name', ['$5', '$a$', 'a $x_1$ b', '$\\frac$'])
def test_a_dollar_is_no_formula(tmp_path, name):
    """Matplotlib would fail, or leave out dollars and set what is between
    them in italics."""
    with figure_style():
        figure = new_figure(3, 2)
        panel = figure.subplots()
        panel.set_xticks([0], [name])
        panel.set(title=name, ylabel=name)
        legend_below(figure, {name: line_look(0)})
        save_figure(figure, str(tmp_path / 'a.png'))
        texts = [
            text for text in figure.findobj(Text) if text.get_text() == name
        ]
        assert len(texts) >= 4
        assert not any(text.get_parse_math() for text in texts)
