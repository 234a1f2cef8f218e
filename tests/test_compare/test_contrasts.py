"""Differences of methods as texts."""
import math

import pytest

from mcod_plugin.compare.contrasts import text_of
from mcod_plugin.compare.statistics import Contrast


@pytest.mark.parametrize('value', [0.155, -0.155, 2.135, 0.625])
def test_half_a_hundredth(value):
    """It is rounded alike, whatever the last digits of a sum are."""
    texts = {
        text_of(Contrast(near, None, 1))
        for near in (value, math.nextafter(value, 9),
                     math.nextafter(value, -9), value + 1e-13, value - 1e-13)
    }
    assert texts == {f'{value:+.2f}'}


def test_parts():
    assert text_of(None) == '-'
    assert text_of(Contrast(1., None, 3)) == '+1.00'
    # 12.706 of Student's t
    assert text_of(Contrast(1., .1, 1)) == '+1.00 [-0.27, 2.27]'
