import math
import os
import sys

import numpy as np
import pytest
from PIL import Image

from mcod_plugin.compare.figures import _looks, _pull, draw
from mcod_plugin.errors import ConfigError
from mcod_plugin.runs.figures import figure_style
from .runs import make_results

ALL = ['curves.png', 'gain.png', 'diversity.png', 'schedule.png']
SOLO = [(40., 50.), (41., 52.), (43., 51.)]
MCOD = [(41., 53.), (43., 53.), (43.5, 53.)]
BLUE, VERMILION = (0, 114, 178), (213, 94, 0)


@pytest.fixture(scope='module')
def results():
    return make_results(solo=SOLO, mcod=MCOD, dml=SOLO[:2])


@pytest.fixture(scope='module')
def folder(results, tmp_path_factory):
    folder = tmp_path_factory.mktemp('figures') / 'new'
    assert draw(results, 'solo', str(folder)) == ALL
    return folder


def pixels(path, color):
    """Where an image has a colour, up to the rounding of its palette."""
    image = np.asarray(Image.open(path).convert('RGB')).astype(int)
    return np.argwhere(np.abs(image - color).max(-1) < 4)


def test_files(folder):
    assert sorted(os.listdir(folder)) == sorted(ALL)
    for name in ALL:
        assert (folder / name).stat().st_size < 150_000
        image = Image.open(folder / name)
        assert image.format == 'PNG'
        assert min(image.size) > 100


@pytest.mark.parametrize('name', ALL)
def test_a_method_has_one_color(folder, name):
    assert len(pixels(folder / name, BLUE)) > 20
    assert len(pixels(folder / name, VERMILION)) > 20


def test_equal_results_give_equal_files(results, folder, tmp_path):
    import matplotlib

    # Of another process that draws them.
    (tmp_path / 'gain.png.part').touch()
    with matplotlib.rc_context({'lines.linewidth': 9, 'font.size': 20}):
        draw(results, 'solo', str(tmp_path))
    for name in ALL:
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    assert sorted(os.listdir(tmp_path)) == sorted([*ALL, 'gain.png.part'])


def test_other_results_give_other_files(folder, tmp_path):
    draw(make_results(solo=MCOD, mcod=SOLO, dml=SOLO), 'solo', str(tmp_path))
    for name in ('curves.png', 'gain.png', 'diversity.png'):
        assert (tmp_path / name).read_bytes() != (folder / name).read_bytes()


def test_colors_stay_while_runs_are_missing(tmp_path):
    results = make_results(solo=SOLO, mcod=[], dml=MCOD)
    draw(results, 'solo', str(tmp_path))
    assert len(pixels(tmp_path / 'gain.png', VERMILION)) > 20
    assert not len(pixels(tmp_path / 'gain.png', BLUE))


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('seeds', (1, 2))
@pytest.mark.parametrize('branches', (1, 2, 6))
def test_shapes(tmp_path, branches, seeds):
    values = [
        tuple(40. + n + seed for n in range(branches)) for seed in range(seeds)
    ]
    results = make_results(solo=values, mcod=values)
    assert draw(results, 'solo', str(tmp_path)) == ALL


@pytest.mark.filterwarnings('error')
def test_more_methods_than_colors(tmp_path):
    results = make_results(
        solo=SOLO, **{f'method_{n}': MCOD
                      for n in range(20)})
    assert draw(results, 'solo', str(tmp_path)) == ALL


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('branches', (1, 2, 6))
def test_ratios(tmp_path, branches):
    """One panel for each branch that was distilled, on one scale."""
    values = [tuple(40. + n for n in range(branches))] * 2
    results = make_results(solo=values, mcod=values, dml=values)
    for method, runs in results.items():
        for seed, run in enumerate(runs):
            course = [0., .02, 0., .1 * (1 + 20 * seed), .5]
            run['kd_ratio'] = {} if method == 'solo' else dict.fromkeys(
                run['branches'], course)
    assert draw(results, 'solo', str(tmp_path)) == [*ALL, 'pull.png']
    path = tmp_path / 'pull.png'
    assert len(pixels(path, VERMILION)) > 20
    before = path.read_bytes()
    # A gap has no point, and whoever is not distilled no line.
    for run in results['dml']:
        run['kd_ratio'] = {
            name: [x or math.nan for x in course]
            for name, course in run['kd_ratio'].items()
        }
    draw(results, 'solo', str(tmp_path))
    assert path.read_bytes() == before
    for run in results['dml']:
        run['kd_ratio'] = {}
    draw(results, 'solo', str(tmp_path))
    assert not len(pixels(path, VERMILION))


def test_ratios_are_plain_numbers():
    """As labels of the axis; no text of a figure is taken for a formula."""
    results = make_results(solo=[(40., )], mcod=[(41., )])
    for course in ([.01, .1, 1.], [.2, .3, .4]):
        for run in results['mcod']:
            run['kd_ratio'] = dict.fromkeys(run['branches'], course)
        with figure_style():
            figure = _pull(results, _looks(results, 'solo'))
            figure.canvas.draw()
            axis = figure.axes[0].yaxis
            labels = [
                label.get_text() for label in (*axis.get_majorticklabels(),
                                               *axis.get_minorticklabels())
                if label.get_text()
            ]
        assert len(labels) > 1
        assert min(map(float, labels)) > 0


def without(results, prefix):
    for runs in results.values():
        for run in runs:
            for content in (run['last'], run['curves']):
                for key in list(content):
                    if key.startswith(prefix):
                        del content[key]
    return results


def test_what_no_run_has_is_left_out(tmp_path):

    def names(results):
        return draw(results, 'solo', str(tmp_path))

    assert names(make_results(solo=SOLO)) == [
        'curves.png', 'diversity.png', 'schedule.png'
    ]
    assert names(make_results(solo=[], mcod=MCOD)) == [
        'curves.png', 'diversity.png', 'schedule.png'
    ]
    results = without(make_results(solo=SOLO, mcod=MCOD), 'diversity')
    assert names(results) == ['curves.png', 'gain.png', 'schedule.png']
    for runs in results.values():
        for run in runs:
            run['curves'], run['kd_weight'] = {}, []
    assert names(results) == ['gain.png']


def test_no_run(tmp_path):
    assert draw(dict(solo=[]), 'solo', str(tmp_path / 'none')) == []
    assert not os.listdir(tmp_path)


def test_frozen_branch(tmp_path):
    results = make_results(solo=SOLO, kd=MCOD)
    for run in results['kd']:
        run['train_loss'] = dict(b=[1.])
    draw(results, 'solo', str(tmp_path))
    found = pixels(tmp_path / 'gain.png', BLUE)
    width = Image.open(tmp_path / 'gain.png').width
    # The panel of the frozen branch is the left one; a name is black.
    assert found[:, 1].min() > width / 3


def test_interval_of_two_seeds_does_not_set_the_scale(tmp_path):
    # Gains of 1 and 3, and an interval from -10.7 to 14.7 that runs out of
    # the picture.
    results = make_results(
        solo=[(40., 50.), (41., 52.)], mcod=[(41., 51.), (44., 55.)])
    draw(results, 'solo', str(tmp_path))
    rows, columns = pixels(tmp_path / 'gain.png', BLUE).T
    # Below the line are the dots of the seeds, in three panels.
    dots = np.unique(columns[rows > rows.max() - 4])
    gaps = np.diff(dots)
    assert (gaps > 60).sum() >= 3


def test_method_that_fails_does_not_set_the_scale(tmp_path):
    # Gains of 1 and 3 beside one of -40.
    results = make_results(
        solo=[(40., 50.), (41., 52.)],
        mcod=[(41., 51.), (44., 55.)],
        failed=[(1., 2.)])
    draw(results, 'solo', str(tmp_path))
    rows, columns = pixels(tmp_path / 'gain.png', BLUE).T
    dots = np.unique(columns[rows > rows.max() - 4])
    gaps = np.diff(dots)
    assert (gaps > 30).sum() >= 3


def test_frozen_branch_counts_in_no_mean(tmp_path):
    found = []
    for accuracy in (10., 30.):
        results = make_results(solo=SOLO, kd=[(accuracy, 53.)])
        for run in results['kd']:
            run['train_loss'] = dict(b=[1.])
        draw(results, 'solo', str(tmp_path))
        found.append((tmp_path / 'diversity.png').read_bytes())
    assert found[0] == found[1]


def test_no_loss_was_noted(tmp_path):
    results = make_results(solo=SOLO)
    for run in results['solo']:
        run['train_loss'] = {}
    assert 'diversity.png' in draw(results, 'solo', str(tmp_path))


def test_errors(results, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match='baseline must be one of'):
        draw(results, 'best', str(tmp_path))
    monkeypatch.setitem(sys.modules, 'matplotlib', None)
    with pytest.raises(ConfigError, match=r'Matplotlib.*\.\[compare\]'):
        draw(results, 'solo', str(tmp_path / 'none'))
    assert not os.listdir(tmp_path)


def test_methods_are_told_apart():
    results = dict.fromkeys(['solo', *(f'method_{n}' for n in range(40))])
    looks = {(look['color'], look['marker'])
             for look in _looks(results, 'solo').values()}
    assert len(looks) == 41
