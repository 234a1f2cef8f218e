import math
from fractions import Fraction

import numpy as np
import pytest

from mcod_plugin.errors import (ConfigError, check_choice, check_count,
                                check_integer, check_names, check_number,
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
    'value, choices, listed',
    [
        (15, (19, 8, 16), '8, 16, 19'),
        ('16', {
            16: 1,
            11: 2
        }, '11, 16'),
        ('yes', (True, False), 'False, True'),
        # without an order among them
        ('c', ('b', None, 'a'), 'b, None, a'),
        (2, iter(['auto', 1]), 'auto, 1'),
        # unhashable
        ([16], (16, ), '16'),
        (dict(a=1), ('a', ), 'a'),
        ({'a'}, ('a', ), 'a'),
    ])
def test_check_choice_of_any_type(value, choices, listed):
    with pytest.raises(ConfigError) as info:
        check_choice('x', value, choices)
    assert str(info.value) == f'x must be one of {listed}; got {value!r}'


@pytest.mark.parametrize('value, choices', [(1, (True, False)),
                                            (0, (True, False)),
                                            (1., (True, False)),
                                            (True, (1, 2)), (False, (0, 2))])
def test_check_choice_tells_bools_from_numbers(value, choices):
    with pytest.raises(ConfigError, match=f'; got {value!r}$'):
        check_choice('x', value, choices)


@pytest.mark.parametrize('value, choices', [
    (True, (True, False)),
    (False, (True, False)),
    (True, (1, True)),
    (1, (True, 1)),
    (16, (11, 16)),
    (None, ('a', None)),
    ('b', iter('abc')),
])
def test_check_choice_accepts_any_type(value, choices):
    assert check_choice('x', value, choices) is None


@pytest.mark.parametrize('value', [1, 7, 10**30, np.int64(2), np.uint8(3)])
def test_check_integer_accepts(value):
    assert check_integer('x', value) is None


@pytest.mark.parametrize('value', [
    0, -1, 1., 1.5, True, False, None, '1', math.inf, math.nan,
    Fraction(2, 1),
    np.float32(2), np.bool_(True), [1]
])
def test_check_integer_refuses(value):
    with pytest.raises(ConfigError) as info:
        check_integer('x', value)
    assert str(info.value) == \
        f'x must be an integer of at least 1; got {value!r}'


@pytest.mark.parametrize('minimum', [-3, 0, 8])
def test_check_integer_minimum(minimum):
    check_integer('x', minimum, minimum=minimum)
    with pytest.raises(
            ConfigError,
            match=f'^x must be an integer of at least {minimum}; '
            f'got {minimum - 1}$'):
        check_integer('x', minimum - 1, minimum=minimum)


@pytest.mark.parametrize('value', [1, 3, 1e5])
def test_check_count_accepts(value):
    assert check_count('x', value) is None


@pytest.mark.parametrize('value', [0, 1.5, math.inf, math.nan, '3', True])
def test_check_count_refuses(value):
    with pytest.raises(ConfigError, match=f'^x must .* 1; got {value!r}'):
        check_count('x', value)


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


@pytest.mark.parametrize('value', [(), [], ['a', 'a'], ['a', 1], 'a', None])
def test_check_names(value):
    with pytest.raises(ConfigError) as info:
        check_names('x', value)
    assert str(info.value) == ('x must name at least one branch, and none '
                               f'twice; got {value!r}')
    assert check_names('x', ['b', 'a']) is check_names('x', ('a', )) is None
