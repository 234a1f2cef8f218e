import math
from fractions import Fraction

import numpy as np
import pytest

from mcod_plugin.errors import (ConfigError, check_choice, check_number,
                                nearest)


def test_config_error_is_a_value_error():
    assert issubclass(ConfigError, ValueError)


@pytest.mark.parametrize(
    'name, choices, expected',
    [
        ('linaer', ['linear', 'cosine'], 'did you mean linear?'),
        ('Linear', ['linear', 'cosine'], 'did you mean linear?'),
        ('LINEAR', ['Linear'], 'did you mean Linear?'),
        ('zzz', ['linear', 'cosine'], ''),
        ('', ['linear'], ''),
        ('linear', [], ''),
        # a missing or a wrong scope
        ('CifarResNet', ['mcod_plugin.CifarResNet', 'TIMMBackbone'
                         ], 'did you mean mcod_plugin.CifarResNet?'),
        ('mmpretrain.CifarResNet', ['mcod_plugin.CifarResNet'],
         'did you mean mcod_plugin.CifarResNet?'),
    ])
def test_nearest(name, choices, expected):
    assert nearest(name, choices) == expected


def test_nearest_gives_the_best_first_and_no_more_than_the_limit():
    choices = [f'branch{i}' for i in range(6)] + ['branch']
    hint = nearest('branch', choices)
    assert hint.startswith('did you mean branch, ') and hint.count(',') == 2
    assert nearest('branch', choices, limit=1) == 'did you mean branch?'


def test_nearest_names_each_once():
    # It is found both as it is spelled and by its last part.
    assert nearest('ResNet', ['ResNet']) == 'did you mean ResNet?'
    assert nearest('resnet', ['a.ResNet']) == 'did you mean a.ResNet?'


def test_nearest_takes_any_iterable():
    assert nearest('b', iter(['a', 'b'])) == 'did you mean b?'
    assert nearest('b', {'a': 1, 'b': 2}) == 'did you mean b?'


@pytest.mark.parametrize('value', ['mean', 'max'])
def test_check_choice_accepts(value):
    assert check_choice('fusion', value, ['mean', 'max']) is None
    assert check_choice('fusion', value, dict(mean=1, max=2)) is None


@pytest.mark.parametrize('value', ['Mean', '', None, 1, ['mean']])
def test_check_choice_refuses(value):
    with pytest.raises(ConfigError) as info:
        check_choice('teacher.fusion', value, ['mean', 'max'])
    assert str(info.value) == \
        f'teacher.fusion must be one of max, mean; got {value!r}'


@pytest.mark.parametrize(
    'value',
    [1, 0.5, Fraction(1, 3),
     np.float32(2), np.int64(2), -1e30])
def test_check_number_accepts(value):
    assert check_number('x', value) is None


@pytest.mark.parametrize('value', [
    math.inf, -math.inf, math.nan,
    np.float64('nan'), True, False, None, '1', 1j, [1]
])
def test_check_number_refuses(value):
    with pytest.raises(ConfigError) as info:
        check_number('x', value)
    assert str(info.value) == f'x must be a finite number; got {value!r}'


def test_check_number_minimum():
    check_number('x', 0, minimum=0)
    with pytest.raises(
            ConfigError,
            match=r'^x must be a finite number of at least 0; got -0\.5$'):
        check_number('x', -0.5, minimum=0)


def test_check_number_exclusive_minimum():
    check_number('x', 0.6, minimum=0.5, exclusive=True)
    with pytest.raises(
            ConfigError,
            match=r'^x must be a finite number greater than 0\.5; got 0\.5$'):
        check_number('x', 0.5, minimum=0.5, exclusive=True)
