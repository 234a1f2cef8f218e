import math

import pytest
from matplotlib.figure import Figure

from mcod_plugin.runs import curves
from mcod_plugin.runs.curves import draw_run, draw_runs


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are saved, in the test instead of in a file."""
    figures = []
    monkeypatch.setattr(curves, 'save_figure',
                        lambda figure, path: figures.append(figure))
    return figures


def record(**changes):
    return dict(
        dict(
            unit='epoch',
            curves={
                'epoch': [2, 4],
                'ensemble/top1': [40., 50.],
                'a/top1': [30., 35.],
                'b/top1': [20., math.nan],
                'diversity/disagreement': [.5, .4]
            },
            until=[1, 2, 3, 4],
            kd_weight=[0., .5, 0., 1.],
            train_loss=dict(a=[4., 3., 2., 1.], b=[5., 4., 3., 2.])),
        **changes)


def lines(panel):
    return [line.get_xydata().tolist() for line in panel.lines]


def panels(figure):
    assert isinstance(figure, Figure)
    return {
        panel.get_title(): panel
        for panel in figure.axes if panel.get_title()
    }


def labels(figure):
    legend, = figure.legends
    return [text.get_text() for text in legend.get_texts()]


def test_run(drawn):
    assert draw_run(record(), 'x.png')
    figure, = drawn
    found = panels(figure)
    accuracy, loss, weight = found.values()
    assert list(found) == [
        'top-1 accuracy in %', 'cross entropy in training',
        'weight of the distillation'
    ]
    assert lines(accuracy)[0] == [[2., 30.], [4., 35.]]
    # It has diverged, so a point is left.
    assert lines(accuracy)[1] == [[2., 20.]]
    assert accuracy.lines[1].get_marker() == '.'
    assert lines(accuracy)[2] == [[2., 40.], [4., 50.]]
    assert lines(loss)[1] == [[1., 5.], [2., 4.], [3., 3.], [4., 2.]]
    # A branch has the same colour everywhere.
    assert [line.get_color() for line in accuracy.lines
            ][:2] == [line.get_color() for line in loss.lines]
    values, edges, _ = weight.patches[0].get_data()
    assert list(values) == [0., .5, 0., 1.]
    assert list(edges) == [0, 1, 2, 3, 4]
    assert labels(figure) == ['a', 'b', 'ensemble']


def test_run_without_some_of_it(drawn):
    bare = record(curves=dict(iteration=[]), kd_weight=[0.] * 4)
    assert draw_run(bare, 'x.png')
    assert list(panels(drawn[0])) == ['cross entropy in training']
    assert drawn[0].axes[0].get_xlabel() == 'iteration'
    assert not draw_run(
        dict(curves=dict(epoch=[]), until=[], train_loss={}), 'x.png')
    assert len(drawn) == 1


def test_runs(drawn):
    solo = record(
        curves={
            'epoch': [4],
            'a/top1': [33.],
            'c/top1': [44.]
        },
        kd_weight=[0.] * 4)
    assert draw_runs(dict(kd=record(), solo=solo), 'x.png')
    figure, = drawn
    found = panels(figure)
    assert [title.partition(',')[0] for title in found] == [
        'a', 'b', 'c', 'ensemble', 'weight of the distillation'
    ]
    first, *_, weight = found.values()
    assert lines(first) == [[[2., 30.], [4., 35.]], [[4., 33.]]]
    assert len(weight.patches) == 1
    assert weight.get_ylim()[1] > 1
    assert labels(figure) == ['kd', 'solo']
    assert not draw_runs(dict(x=dict(curves=dict(epoch=[]))), 'x.png')
