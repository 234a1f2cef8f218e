import numpy as np
import pytest
from PIL import Image

from mcod_plugin.publish.figures import (_columns, draw_branch, draw_cohort,
                                         worst_classes)
from mcod_plugin.publish.trained_run import read_run


@pytest.fixture
def run(runs):
    return read_run('WORK_DIR', str(runs.cohort))


def test_worst_classes_by_hand():
    # Class 2 has no images.
    matrix = np.array([[1, 2, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0], [0, 0, 0, 1]])
    assert worst_classes(matrix, 10).tolist() == [0, 1, 3]
    assert worst_classes(matrix, 2).tolist() == [0, 1]


def test_equals_keep_their_order():
    matrix = np.diag([2, 2, 2]) + np.ones((3, 3), dtype=int)
    assert worst_classes(matrix, 3).tolist() == [0, 1, 2]


def test_columns_are_the_commonest_mistakes():
    matrix = np.diag(np.full(40, 100))
    # Class 3 is taken for 7 and 20, class 5 for 30.
    matrix[3, [3, 7, 20]] = 50, 30, 20
    matrix[5, [5, 30]] = 60, 40
    rows = worst_classes(matrix, 2)
    assert rows.tolist() == [3, 5]
    assert _columns(rows, matrix[rows]) == [3, 5, 30, 7, 20]


def test_many_classes_stay_small(run, tmp_path):
    rng = np.random.default_rng(0)
    matrix = rng.integers(0, 50, (1000, 1000))
    classes = [f'a class with the name {index}' for index in range(1000)]
    draw_branch(run, None, 'vgg', matrix, classes, str(tmp_path))
    path = tmp_path / 'confusion.png'
    assert path.stat().st_size < 150_000
    assert Image.open(path).width < 1800


def test_what_the_record_lacks_is_left_out(run, tmp_path):
    run.content.pop('run_record')
    run.record = dict(curves=dict(epoch=[]))
    matrix = np.eye(2, dtype=int)
    captions = draw_cohort(run, ['a', 'b'], matrix, 'xy', str(tmp_path))
    assert list(captions) == ['confusion.png']
    assert [path.name for path in tmp_path.iterdir()] == ['confusion.png']


def test_what_a_run_without_validation_has(run, tmp_path):
    run.cfg.val_dataloader = None
    run.record = dict(
        curves=dict(epoch=[]), until=[1], train_loss=dict(a=[2.]))
    matrix = np.eye(2, dtype=int)
    captions = [
        draw_cohort(run, ['a'], matrix, 'xy', str(tmp_path)),
        draw_branch(run, None, 'a', matrix, 'xy', str(tmp_path))
    ]
    for found in captions:
        assert found['curves.png'] == 'The loss in training.'


def test_one_branch_differs_from_none(run, tmp_path):
    del run.cfg.model.branches['vgg']
    captions = draw_cohort(run, ['resnet'], np.eye(2, dtype=int), 'xy',
                           str(tmp_path))
    assert list(captions) == ['curves.png', 'confusion.png']


def test_equal_runs_give_equal_files(run, tmp_path):
    for folder in (tmp_path / 'a', tmp_path / 'b'):
        folder.mkdir()
        draw_cohort(run, ['resnet', 'vgg'], np.eye(3, dtype=int), 'xyz',
                    str(folder))
    names = sorted(path.name for path in (tmp_path / 'a').iterdir())
    assert len(names) == 4
    for name in names:
        assert (tmp_path / 'a' / name).read_bytes() == (tmp_path / 'b' /
                                                        name).read_bytes()
