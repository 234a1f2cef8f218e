import numpy as np
import pytest
from mmengine.registry import VISBACKENDS
from mmengine.visualization import BaseVisBackend
from PIL import Image

from mcod_plugin.engine.hooks import run_figure_hook

DRAWN = {'default_hooks.run_figure': dict(type='mcod_plugin.RunFigureHook')}


@pytest.fixture
def backend():
    """A backend that keeps images, beside MMEngine's own."""

    class KeepingBackend(BaseVisBackend):
        images = []

        def _init_env(self):
            """There is nothing to begin."""

        @property
        def experiment(self):
            return self

        def add_image(self, name, image, step=0, **kwargs):
            self.images.append((name, image, step))

    VISBACKENDS.register_module(module=KeepingBackend)
    yield KeepingBackend
    VISBACKENDS.module_dict.pop('KeepingBackend')


def test_picture_at_each_validation(tiny_runner, tmp_path, backend,
                                    monkeypatch):
    monkeypatch.setattr(run_figure_hook, 'REST', 0)
    runner = tiny_runner(
        epochs=2,
        **DRAWN,
        visualizer=dict(
            type='Visualizer',
            vis_backends=[
                dict(type='LocalVisBackend'),
                dict(type='KeepingBackend')
            ]))
    runner.train()
    # After both of them, and at the end.
    assert [(name, step) for name, _, step in backend.images
            ] == [('curves', 1), ('curves', 2), ('curves', 2)]
    picture = Image.open(tmp_path / 'run' / 'curves.png')
    last = backend.images[-1][1]
    assert last.shape == (picture.height, picture.width, 3)
    assert np.array_equal(last, np.asarray(picture.convert('RGB')))
    assert not np.array_equal(last, backend.images[0][1])
    # The local backend would keep one of each.
    assert not list(tmp_path.rglob('vis_image'))


def test_drawing_takes_little_time(tiny_runner, tmp_path, monkeypatch):
    times = []
    draw = run_figure_hook.draw_run
    monkeypatch.setattr(
        run_figure_hook, 'draw_run',
        lambda record, path: times.append(path) or draw(record, path))
    tiny_runner(epochs=3, **DRAWN).train()
    # The first validation, and the end.
    assert len(times) == 2


def test_without_matplotlib(tiny_runner, tmp_path, monkeypatch):
    monkeypatch.setattr(run_figure_hook, 'find_spec', lambda name: None)
    tiny_runner(epochs=1, **DRAWN).train()
    assert not (tmp_path / 'run' / 'curves.png').exists()
    log, = (tmp_path / 'run').glob('*/*.log')
    assert log.read_text().count('since Matplotlib is missing') == 1


def test_a_picture_ends_no_training(tiny_runner, tmp_path):
    """Its place is taken."""
    (tmp_path / 'run' / 'curves.png').mkdir(parents=True)
    tiny_runner(epochs=2, **DRAWN).train()
    assert (tmp_path / 'run' / 'epoch_2.pth').is_file()
    log, = (tmp_path / 'run').glob('*/*.log')
    assert log.read_text().count('curves.png is not drawn any more') == 1
