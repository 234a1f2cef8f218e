import pickle

import pytest

from mcod_plugin.evaluation import PredictionFile


def test_is_written_as_a_whole(tmp_path):
    path = tmp_path / 'predictions.pkl'
    metric = PredictionFile(out_file_path=str(path))
    assert metric.compute_metrics([dict(a=1)]) == {}
    assert pickle.loads(path.read_bytes()) == [dict(a=1)]
    with pytest.raises((AttributeError, pickle.PicklingError)):
        metric.compute_metrics([lambda: None])
    assert pickle.loads(path.read_bytes()) == [dict(a=1)]
    assert list(tmp_path.iterdir()) == [path]


def test_lies_beside_its_place_until_then(tmp_path):
    path = tmp_path / 'predictions.pkl'
    found = []

    class Noting:

        def __reduce__(self):
            found.extend(tmp_path.iterdir())
            return list, ()

    PredictionFile(out_file_path=str(path)).compute_metrics([Noting()])
    assert found and path not in found
