import copy
import dataclasses
import math
import pickle
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcod_plugin.errors import ConfigError
from mcod_plugin.schedule import CURVES, DiscontinuousSchedule

# Shared machines may stall for longer than any deadline.
no_deadline = settings(deadline=None)
WEIGHTS = st.floats(0, 1e3)


@st.composite
def schedules(draw, **fixed):
    """Keyword arguments of a schedule that has an end."""
    kwargs = dict(
        on=draw(st.integers(1, 7)),
        gap=tuple(draw(st.lists(st.integers(0, 9), min_size=2, max_size=2))),
        weight=tuple(draw(st.lists(WEIGHTS, min_size=2, max_size=2))),
        curve=draw(st.sampled_from(sorted(CURVES))),
        begin=draw(st.integers(0, 20)),
        ramp=draw(st.none() | st.integers(1, 150)))
    kwargs.update(fixed)
    kwargs.setdefault('end', kwargs['begin'] + draw(st.integers(1, 120)))
    return kwargs


def curve_oracle(curve, progress):
    """The curves by other formulas, exact where they can be."""
    if curve == 'linear':
        return progress
    if curve == 'step':
        return Fraction(int(2 * progress >= 1))
    if curve == 'cosine':
        return math.sin(math.pi * progress / 2)**2
    remaining = (1 - progress)**2
    return math.expm1(5 * (1 - remaining)) / math.expm1(5)


def simulate(on, gap, weight, curve, begin, end, ramp):
    """Walk through the steps one by one, and count down on and off."""
    on_steps = []
    on_left = off_left = 0
    for t in range(begin, end):
        if on_left == off_left == 0:
            way = ramp or max(end - 1 - begin, 1)
            progress = min(Fraction(t - begin, way), 1)
            length = gap[0] + (gap[1] - gap[0]) * curve_oracle(curve, progress)
            tie = Fraction(1, 2) if isinstance(length, Fraction) else .5 + 1e-9
            on_left, off_left = on, math.floor(length + tie)
        if on_left:
            on_left -= 1
            on_steps.append(t)
        else:
            off_left -= 1
    way = ramp or max(on_steps[-1] - begin, 1)
    return {
        t:
        weight[0] + (weight[1] - weight[0]) *
        float(curve_oracle(curve, min(Fraction(t - begin, way), 1)))
        for t in on_steps
    }


def on_steps_of(schedule):
    return [t for phase in schedule.phases for t in range(*phase)]


def test_by_hand():
    # cycles at 0, 3 and 5; gaps 2, 2 - 2 * 3/5 = 0.8 and 0
    schedule = DiscontinuousSchedule(
        on=1, gap=(2, 0), weight=(0.25, 1.0), end=6)
    assert schedule.phases == [(0, 1), (3, 4), (5, 6)]
    assert [schedule.weight(t) for t in range(-1, 8)] == pytest.approx(
        [0, 0.25, 0, 0, 0.25 + 0.75 * 3 / 5, 0, 1, 0, 0])
    assert [schedule.is_on(t) for t in range(6)] == [1, 0, 0, 1, 0, 1]


def test_run_ends_in_a_gap():
    # The last step that is on has the full weight, not the last step.
    schedule = DiscontinuousSchedule(
        on=2, gap=(3, 3), weight=(1.0, 3.0), begin=4, end=13)
    assert [schedule.weight(t) for t in range(4, 13)
            ] == pytest.approx([1, 1 + 2 / 6, 0, 0, 0, 1 + 2 * 5 / 6, 3, 0, 0])
    assert schedule.weight(10) == 3


def test_half_a_gap_rounds_up():
    # The second cycle starts half way, at 6 of 0 to 12: its gap is 0.5.
    assert DiscontinuousSchedule(
        on=6, gap=(0, 1), end=13).phases == [(0, 6), (6, 12)]
    assert DiscontinuousSchedule(
        on=5, gap=(1, 0), end=13).phases == [(0, 5), (6, 11), (12, 13)]
    # 13 * 15/26 is 7.5 too, but 7.499... in floating point.
    assert DiscontinuousSchedule(
        on=3, gap=(0, 13), end=27).phases == [(0, 3), (3, 6), (8, 11),
                                              (15, 18), (26, 27)]


@pytest.mark.parametrize('curve, half', [
    ('linear', 0.5),
    ('cosine', 0.5),
    ('exp', (math.exp(-1.25) - math.exp(-5)) / (1 - math.exp(-5))),
    ('step', 1.0),
])
def test_curve(curve, half):
    schedule = DiscontinuousSchedule(
        gap=(0, 0), weight=(0, 1), curve=curve, end=5)
    assert schedule.weight(0) == 0
    assert schedule.weight(2) == pytest.approx(half, rel=1e-12)
    assert schedule.weight(4) == 1


def test_step_curve_jumps_half_way():
    schedule = DiscontinuousSchedule(
        gap=(0, 0), weight=(0, 1), curve='step', end=6)
    assert [w for _, w in schedule.table()] == [0, 0, 0, 1, 1, 1]


def test_always_on():
    schedule = DiscontinuousSchedule(gap=(0, 0), end=50)
    assert all(schedule.is_on(t) for t in range(50))
    assert not schedule.is_on(-1) and not schedule.is_on(50)


def test_never():
    schedule = DiscontinuousSchedule(weight=(0, 0), end=50)
    assert not any(schedule.is_on(t) for t in range(50))


def test_single_on_step():
    assert DiscontinuousSchedule(
        gap=(9, 9), weight=(0.3, 1), end=5).table()[0] == (0, 0.3)
    assert DiscontinuousSchedule(
        weight=(0.3, 1), begin=7, end=8).table() == [(7, 0.3)]


@no_deadline
@given(schedules())
def test_equals_simulation(kwargs):
    schedule = DiscontinuousSchedule(**kwargs)
    expected = simulate(**kwargs)
    assert on_steps_of(schedule) == list(expected)
    for t in range(kwargs['begin'] - 3, kwargs['end'] + 12):
        assert schedule.weight(t) == pytest.approx(
            expected.get(t, 0.), rel=1e-9, abs=1e-9)


@no_deadline
@given(schedules())
def test_weights(kwargs):
    schedule = DiscontinuousSchedule(**kwargs)
    first, last = kwargs['weight']
    values = [schedule.weight(t) for t in on_steps_of(schedule)]
    ramp, length = kwargs['ramp'], kwargs['end'] - kwargs['begin']
    assert values[0] == first
    if ramp is None:
        assert values[-1] == (last if len(values) > 1 else first)
    else:
        beyond = [
            t for t in on_steps_of(schedule) if t >= kwargs['begin'] + ramp
        ]
        assert all(schedule.weight(t) == last for t in beyond)
        assert beyond or length <= ramp + kwargs['on'] + max(kwargs['gap'])
    assert all(min(first, last) <= v <= max(first, last) for v in values)
    steps = list(zip(values, values[1:]))
    if first <= last:
        assert all(a <= b + 1e-9 for a, b in steps)
    else:
        assert all(a >= b - 1e-9 for a, b in steps)


@no_deadline
@given(schedules())
def test_table_equals_weight(kwargs):
    schedule = DiscontinuousSchedule(**kwargs)
    begin, end = kwargs['begin'], kwargs['end']
    assert schedule.table() == [(t, schedule.weight(t))
                                for t in range(begin, end)]
    for t in (*range(begin - 10, begin), *range(end, end + 10)):
        assert schedule.weight(t) == 0
    for t in range(begin, end):
        assert schedule.is_on(t) == (schedule.weight(t) > 0)


@no_deadline
@given(schedules())
def test_phases(kwargs):
    schedule = DiscontinuousSchedule(**kwargs)
    phases = schedule.phases
    on, end = kwargs['on'], kwargs['end']
    assert phases[0][0] == kwargs['begin']
    assert all(stop - start == on for start, stop in phases[:-1])
    assert phases[-1][1] == min(phases[-1][0] + on, end)
    gaps = [after[0] - before[1] for before, after in zip(phases, phases[1:])]
    shortest, longest = sorted(kwargs['gap'])
    assert all(shortest <= gap <= longest for gap in gaps)
    assert end - phases[-1][1] <= longest


@no_deadline
@given(schedules(), st.integers(1, 1000))
def test_begin_shifts(kwargs, shift):
    schedule = DiscontinuousSchedule(**kwargs)
    begin, end = kwargs.pop('begin'), kwargs.pop('end')
    shifted = DiscontinuousSchedule(
        begin=begin + shift, end=end + shift, **kwargs)
    assert shifted.table() == [(t + shift, w) for t, w in schedule.table()]


@no_deadline
@given(schedules(end=None), st.integers(1, 100))
def test_resolve(kwargs, rest):
    schedule = DiscontinuousSchedule(**kwargs)
    total = kwargs['begin'] + rest
    kwargs['end'] = total
    assert schedule.resolve(total) == DiscontinuousSchedule(**kwargs)
    assert schedule.end is None


def test_ramp_by_hand():
    # The gap shrinks from 2 to 0 in four steps: cycles start at 1, where the
    # gap is 2, at 4, where it is 2 - 2 * 3/4, rounded up, and at 6.
    schedule = DiscontinuousSchedule(
        gap=(2, 0), weight=(0.2, 1.), begin=1, end=10, ramp=4)
    assert schedule.phases == [(1, 2), (4, 5), (6, 7), (7, 8), (8, 9), (9, 10)]
    assert [schedule.weight(t) for t in range(11)] == pytest.approx(
        [0, .2, 0, 0, .2 + .8 * 3 / 4, 0, 1, 1, 1, 1, 0])
    # A step of weight 0 is off, also the first of a rise from 0.
    rise = DiscontinuousSchedule(gap=(0, 0), weight=(0, 1), end=4, ramp=2)
    assert rise.table() == [(0, 0), (1, .5), (2, 1), (3, 1)]
    assert [rise.is_on(t) for t in range(4)] == [False, True, True, True]
    # It may be longer than the schedule.
    half = DiscontinuousSchedule(gap=(0, 0), weight=(0, 1), end=4, ramp=8)
    assert [w for _, w in half.table()] == [0, 1 / 8, 2 / 8, 3 / 8]


@no_deadline
@given(
    st.integers(1, 500), *3 *
    [st.floats(0, 1, exclude_min=True, exclude_max=True)
     | st.integers(1, 20)])
def test_shares_of_the_run(total, begin, end, ramp):

    def steps(value):
        return math.floor(value * total +
                          .5) if isinstance(value, float) else value

    try:
        schedule = DiscontinuousSchedule(begin=begin, end=end, ramp=ramp)
    except ConfigError:
        assert type(begin) is type(end) and begin >= end
        return
    try:
        resolved = schedule.resolve(total)
    except ConfigError as error:
        assert steps(begin) >= min(total, steps(end))
        assert '\n' not in str(error)
        assert str(begin) in str(error)
        return
    assert (resolved.begin, resolved.end) == (steps(begin), steps(end))
    assert resolved.ramp == max(steps(ramp), 1)
    # As if they had been given in steps.
    assert resolved == DiscontinuousSchedule(
        begin=steps(begin), end=steps(end), ramp=resolved.ramp)
    assert resolved.resolve(total) is resolved


def test_a_share_that_is_half_a_step():
    # 0.25 * 10 + 0.5 = 3, 0.5 * 5 + 0.5 = 3, and 0.1 * 4 is not half a step
    for share, total, expected in ((.25, 10, 3), (.5, 5, 3), (.1, 4, 0)):
        found = DiscontinuousSchedule(begin=share).resolve(total)
        assert (found.begin, found.end) == (expected, total)
    ramp = DiscontinuousSchedule(weight=(0, 1), gap=(0, 0), ramp=.1)
    assert ramp.resolve(4).table()[:2] == [(0, 0), (1, 1)]


def test_end_before_begin_once_resolved():
    schedule = DiscontinuousSchedule(begin=4, end=.2)
    schedule.resolve(100)
    with pytest.raises(
            ConfigError,
            match='^KD schedule: in a run of 20 steps, end must be after '
            'begin, 4; got 0.2, which is step 4$'):
        schedule.resolve(20)


def test_resolve_keeps_end():
    schedule = DiscontinuousSchedule(begin=3, end=9)
    assert schedule.resolve(100) is schedule
    assert schedule.resolve(5) is schedule


@pytest.mark.parametrize('end', [None, 30])
def test_resolve_refuses_run_that_ends_before(end):
    schedule = DiscontinuousSchedule(begin=20, end=end)
    with pytest.raises(
            ConfigError, match=r'begin must be less than the 20 .*; got 20$'):
        schedule.resolve(20)


@pytest.mark.parametrize('settings', [
    {},
    dict(begin=.1, end=9),
    dict(end=.9),
    dict(end=9, ramp=.5),
])
@pytest.mark.parametrize('use', [
    lambda schedule: schedule.weight(0),
    lambda schedule: schedule.weight(-1),
    lambda schedule: schedule.is_on(0),
    lambda schedule: schedule.table(),
])
def test_unresolved(use, settings):
    schedule = DiscontinuousSchedule(**settings)
    with pytest.raises(ValueError, match=r'call resolve\(total\)'):
        use(schedule)
    assert str(schedule) == f'{schedule!r}, to be resolved'
    use(schedule.resolve(10))


def test_lists_as_from_the_command_line():
    from_lists = DiscontinuousSchedule(gap=[3, 1], weight=[0, 1], end=9)
    from_tuples = DiscontinuousSchedule(gap=(3, 1), weight=(0.0, 1.0), end=9)
    assert from_lists == from_tuples
    assert hash(from_lists) == hash(from_tuples)
    assert repr(from_lists) == repr(from_tuples)
    assert from_lists != DiscontinuousSchedule(
        gap=(3, 2), weight=(0, 1), end=9)


def test_repr_builds_it_again():
    schedule = DiscontinuousSchedule(
        on=2, gap=(5, 1), weight=(1, 0.1), curve='exp', begin=3, end=.7)
    assert eval(repr(schedule)) == schedule
    schedule = DiscontinuousSchedule(begin=.1, ramp=.5)
    assert eval(repr(schedule)) == schedule
    assert schedule != DiscontinuousSchedule(begin=.1)


def test_frozen():
    schedule = DiscontinuousSchedule(end=20)
    with pytest.raises(dataclasses.FrozenInstanceError):
        schedule.on = 2


def test_has_no_state():
    schedule = DiscontinuousSchedule(end=40)
    table = schedule.table()
    forgets = DiscontinuousSchedule(end=40)
    # any order of questions, and any copy, gives the same answers
    assert [(t, forgets.weight(t)) for t in reversed(range(40))] == table[::-1]
    assert schedule == forgets
    for twin in copy.deepcopy(schedule), pickle.loads(pickle.dumps(schedule)):
        assert twin == schedule and twin.table() == table


@pytest.mark.parametrize('kwargs, message', [
    (dict(on=0), r'on must be an integer of at least 1; got 0'),
    (dict(on=1.0), r'on must be an integer of at least 1; got 1\.0'),
    (dict(on=True), r'on must be an integer of at least 1; got True'),
    (dict(on='1'), r"on must be an integer of at least 1; got '1'"),
    (dict(gap=4), r'gap must be a pair, .*; got 4'),
    (dict(gap='40'), r"gap must be a pair, .*; got '40'"),
    (dict(gap=(4, )), r'gap must be a pair, .*; got \(4,\)'),
    (dict(gap=(4, 2, 0)), r'gap must be a pair, .*; got \(4, 2, 0\)'),
    (dict(gap=(-1, 0)), r'gap\[0\] must be an integer of at least 0; got -1'),
    (dict(gap=[4, .5]), r'gap\[1\] must be an integer of at least 0; got 0.5'),
    (dict(weight=1.), r'weight must be a pair, .*; got 1\.0'),
    (dict(weight=None), r'weight must be a pair, .*; got None'),
    (dict(weight=(-.1, 1)), r'weight\[0\] must be .* at least 0; got -0\.1'),
    (dict(weight=(0, math.inf)), r'weight\[1\] must be a finite .*; got inf'),
    (dict(weight=(math.nan, 1)), r'weight\[0\] must be a finite .*; got nan'),
    (dict(weight=('0', 1)), r"weight\[0\] must be a finite .*; got '0'"),
    (dict(curve='sine'),
     r"curve must be one of cosine, exp, linear, step; got 'sine'"),
    (dict(curve=None), r'curve must be one of .*; got None'),
    (dict(begin=-1), r'begin must be an integer of at least 0 \(steps\) or '
     r'a number between 0 and 1 \(a share of the run\); got -1'),
    (dict(begin=None), r'begin must be .*; got None'),
    (dict(begin=False), r'begin must be .*; got False'),
    (dict(begin=1.), r'begin must be .*; got 1\.0'),
    (dict(end=2.5), r'end must be .* a number between 0 and 1 .*; got 2\.5'),
    (dict(end='0.5'), r"end must be .*; got '0\.5'"),
    (dict(end=math.nan), r'end must be .*; got nan'),
    (dict(ramp=0), r'ramp must be an integer of at least 1 .*; got 0'),
    (dict(ramp=0.), r'ramp must be .*; got 0\.0'),
    (dict(ramp=True), r'ramp must be .*; got True'),
    (dict(end=0), r'end must be greater than begin, 0, or None; got 0'),
    (dict(begin=.5, end=.5), r'end must be .* begin, 0\.5, .*; got 0\.5'),
    (dict(begin=9, end=9), r'end must be .* begin, 9, or None; got 9'),
])
def test_refuses(kwargs, message):
    with pytest.raises(ConfigError, match=f'^KD schedule: {message}$') as info:
        DiscontinuousSchedule(**kwargs)
    assert '\n' not in str(info.value)


def test_str():
    schedule = DiscontinuousSchedule(gap=(2, 0), weight=(0.1, 1), end=9)
    assert str(schedule) == '\n'.join([
        'steps  on  off  phases            weight',
        '  0-2   1    2       1        0.1 to 0.1',
        '  3-6   1    1       2  0.4375 to 0.6625',
        '  7-8   1    0       2       0.8875 to 1',
        '5 of the 9 steps from 0 to 8 are on',
    ])


def test_str_of_special_schedules():
    always = DiscontinuousSchedule(gap=(0, 0), weight=(0.1, 1), end=200)
    assert str(always).splitlines()[1:] == [
        '0-199   1    0     200  0.1 to 1',
        '200 of the 200 steps from 0 to 199 are on'
    ]
    assert str(DiscontinuousSchedule(weight=(0, 0), begin=5, end=9)) == \
        '0 of the 4 steps from 5 to 8 are on'
    assert str(DiscontinuousSchedule()) == \
        f'{DiscontinuousSchedule()!r}, to be resolved'


def test_str_of_a_ramp():
    schedule = DiscontinuousSchedule(
        gap=(0, 0), weight=(0, 1), begin=2, end=12, ramp=4)
    assert str(schedule) == '\n'.join([
        'steps  on  off  phases     weight',
        '  2-5   1    0       4  0 to 0.75',
        ' 6-11   1    0       6     1 to 1',
        '9 of the 10 steps from 2 to 11 are on',
    ])


@no_deadline
@given(schedules())
def test_str_adds_up(kwargs):
    schedule = DiscontinuousSchedule(**kwargs)
    *rows, summary = str(schedule).splitlines()
    num_on = sum(map(schedule.is_on, range(kwargs['end'])))
    assert summary.startswith(f'{num_on} of the ')
    assert len({len(row) for row in rows}) <= 1
    assert len(rows) < 20
    at = kwargs['begin']
    for row in rows[1:]:
        if row.split()[0] == '...':
            break
        steps, on, off, phases = row.split()[:4]
        first, last = map(int, steps.split('-'))
        assert first == at
        assert last + 1 - first == (int(on) + int(off)) * int(phases)
        at = last + 1
    else:
        assert not rows or at == kwargs['end']


def test_str_stays_short():
    lines = str(DiscontinuousSchedule(on=400, gap=(1600, 0),
                                      end=100_000)).splitlines()
    assert len(lines) < 20
    assert lines[9].split() == ['...'] * 5
    assert lines[-2].split()[0].endswith('-99999')


@pytest.mark.parametrize('kwargs', [dict(gap=(0, 0)), dict(gap=(4, 0))])
def test_weight_does_not_search_all_phases(kwargs, monkeypatch):
    schedule = DiscontinuousSchedule(end=100_000, **kwargs)
    calls = []
    linear = CURVES['linear']
    monkeypatch.setitem(CURVES, 'linear',
                        lambda p: calls.append(p) or linear(p))
    schedule.weight(0)
    assert len(calls) == len(schedule.phases) + 1
    calls.clear()
    # the phases are found once, and each weight takes one value of the curve
    for t in range(99_000, 99_100):
        schedule.weight(t)
    assert len(calls) <= 100
