import pytest
import torch

from mcod_plugin.models.utils.state_faults import state_faults

ONE, TWO = torch.zeros(1), torch.zeros(2)
STATE = {'head.fc.bias': ONE, 'head.fc.weight': TWO, 'branches.a.b.c': ONE}


def test_fits():
    assert state_faults(STATE, dict(reversed(STATE.items()))) == []


@pytest.mark.parametrize('change, faults', [
    ({'head.fc.bias': None, 'head.fc.weight': None},
     ['lacks head (2 keys such as head.fc.bias)']),
    ({'branches.a.b.c': None, 'branches.d.b.c': ONE, 'neck.x': ONE},
     ['lacks branches.a (1 keys such as branches.a.b.c)',
      'adds branches.d (1 keys such as branches.d.b.c), neck (1 keys such as '
      'neck.x)']),
    ({'head.fc.weight': ONE},
     ['has head.fc.weight of shape (1,) instead of (2,)']),
    ({'head.fc.weight': [0.]},
     ['has head.fc.weight of shape list instead of (2,)']),
])
def test_faults(change, faults):
    given = {
        key: value
        for key, value in {**STATE, **change}.items() if value is not None
    }
    assert state_faults(STATE, given) == faults
