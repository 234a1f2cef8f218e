import json
import math

import numpy as np
import pytest

from mcod_plugin.runs.record import (distilled, dose, dose_text,
                                     find_record, kd_weights, mean_of, numbers)


@pytest.mark.parametrize('record, expected, text', [
    (dict(kd_weight=[1., 0., 2., 1.]),
     (.75, 1.), 'distilled in 75 % of the steps, mean weight 1'),
    (dict(kd_weight=[0., 0.]), (0., 0.), 'never distilled'),
    (dict(kd_weight=[]), None, 'not recorded'),
    ({}, None, 'not recorded'),
    # iterations: 3 and 1
    (dict(until=[3, 4], kd_weight=[1., 3.], kd_on=[.5, 1.]),
     (.625, 1.5), 'distilled in 62.5 % of the steps, mean weight 1.5'),
    # schedules by branches
    ({
        'kd_weight': [3., 3.],
        'a.kd_weight': [0., 1.],
        'b.kd_weight': [3., 3.]
    }, (1., 1.75), 'distilled in at most 100 % of the steps, mean weight '
     '1.75'),
    # of which one is not known
    ({
        'until': [2, 3],
        'kd_weight': [math.nan, 1.],
        'kd_on': [math.nan, 1.],
        'a.kd_weight': [math.nan, 1.],
        'b.kd_weight': [math.nan, 0.]
    }, (1., .5), 'distilled in at most 100 % of the steps, mean weight 0.5'),
    # recorded from the second epoch on
    (dict(until=[1, 2, 3], kd_weight=[math.nan, 1., 0.],
          kd_on=[math.nan, 1., 0.]),
     (.5, .5), 'distilled in 50 % of the steps, mean weight 0.5'),
])
def test_dose(record, expected, text):
    assert dose(record) == expected
    assert dose_text(record) == text
    assert distilled(record) == text.startswith('distilled')


def test_weights_of_all_branches():
    record = {'kd_weight': [1., 2.], 'a.kd_weight': [0., 2.]}
    assert kd_weights(record) == [1, 2] and kd_weights({}) == []


@pytest.mark.parametrize('text', [None, '', '{', '[]', '{"a": NaN'])
def test_no_record(tmp_path, text):
    if text is not None:
        (tmp_path / 'record.json').write_text(text)
    assert find_record(str(tmp_path)) == {}


def test_found(tmp_path):
    (tmp_path / 'record.json').write_text(json.dumps(dict(seed=3)))
    assert find_record(str(tmp_path)) == dict(seed=3)


def test_exact_means():
    assert mean_of([.1] * 7) == .1
    assert mean_of([1., 2.]) == 1.5


def test_numbers():
    metrics = dict(a=1, b=np.float32(0.5), c='x', d=[1.], e=math.inf, f=None)
    found = numbers(metrics)
    assert found == dict(a=1., b=0.5, e=math.inf)
    assert all(type(value) is float for value in found.values())
