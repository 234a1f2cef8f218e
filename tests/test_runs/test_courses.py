import json
import math

import pytest
import torch

from mcod_plugin.runs.courses import Courses


def test_parts():
    courses = Courses('epoch')
    for weight in (1., 0.):
        courses.add_step(dict(kd_weight=torch.tensor(weight), loss=2.))
    courses.end_part(1, dict(a=3.))
    courses.add_metrics(1, {'a/top1': 50., 'note': 'no number'})
    # From here on the branches differ, and b has a loss.
    courses.add_step({
        'kd_weight': 2.,
        'b.kd_weight': .5,
        'a.kd_ratio': torch.tensor(.25),
        'a.kd_weight': 2.
    })
    courses.end_part(2, dict(a=2., b=1.))
    found = courses.to_dict()
    assert found['until'] == [1, 2]
    assert found['kd_weight'] == [.5, 2.] and found['kd_on'] == [.5, 1.]
    assert found['a.kd_weight'] == [.5, 2.]
    assert found['b.kd_weight'] == [.5, .5]
    assert found['kd_ratio'] == dict(a=[0., .25])
    assert found['train_loss']['a'] == [3., 2.]
    assert math.isnan(found['train_loss']['b'][0])
    assert found['train_loss']['b'][1] == 1.
    assert found['last'] == {'a/top1': 50.}
    assert found['curves'] == {'epoch': [1], 'a/top1': [50.]}


@pytest.mark.parametrize('unit', ['epoch', 'iteration'])
def test_state_is_all(unit):

    def go_on(courses):
        courses.add_step({'kd_weight': 3., 'a.kd_ratio': .5})
        courses.end_part(7, dict(a=.1))
        courses.add_metrics(7, dict(x=1))
        return courses.to_dict()

    def half_way():
        courses = Courses(unit)
        courses.add_metrics(0, dict(x=0))
        courses.add_step({
            'kd_weight': torch.tensor(1.),
            'a.kd_weight': 1.,
            'b.kd_weight': 0.
        })
        return courses

    other = Courses(unit)
    other.load(json.loads(json.dumps(half_way().state())))
    assert go_on(other) == go_on(half_way())
    assert other.steps == 0


def test_validation_that_is_repeated():
    courses = Courses('iteration')
    courses.add_metrics(4, dict(x=1))
    courses.add_metrics(8, dict(x=2))
    courses.add_metrics(8, dict(x=3))
    assert courses.to_dict()['curves'] == dict(iteration=[4, 8], x=[1., 3.])


def test_what_is_not_known():
    epochs, iterations = Courses('epoch'), Courses('iteration')
    epochs.add_unknown(2)
    iterations.add_unknown(30)
    assert epochs.until == [1, 2] and iterations.until == [30]
    assert all(map(math.isnan, epochs.kd_weight + iterations.kd_on))
    # A checkpoint of the first versions.
    old = Courses('epoch')
    old.load(dict(rows=[], kd_weight=[1., 0.]))
    assert old.until == [1, 2] and all(map(math.isnan, old.kd_on))
