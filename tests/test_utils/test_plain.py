import enum
import io
import math
from collections import Counter, OrderedDict, namedtuple
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.config import Config, ConfigDict
from mmengine.logging import HistoryBuffer, MessageHub

from mcod_plugin.utils.plain import from_plain, to_host, to_plain

Point = namedtuple('Point', 'x y')


class Color(enum.Enum):
    RED = 'red'


class Level(enum.IntEnum):
    HIGH = 3


class Text(str):
    pass


class Real(float):
    pass


def saved_and_loaded(value):
    """Through a file, opened as strictly as PyTorch can."""
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def same(one, other):
    """Equal in types and values, all the way down; NaN equals itself."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        # the order too
        return list(map(repr, one)) == list(map(repr, other)) and all(
            map(same, one.values(), other.values()))
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and (
            one.numpy().tobytes() == other.numpy().tobytes())
    return repr(one) == repr(other)


def test_same_tells_apart():
    assert same({'a': [1, float('nan')]}, {'a': [1, float('nan')]})
    assert not same(1, True)
    assert not same([1], (1, ))
    assert not same(torch.zeros(1), torch.zeros(1, dtype=torch.float64))


@pytest.mark.parametrize('value, plain', [
    (None, None),
    (True, True),
    (10**30, 10**30),
    (0.1, 0.1),
    ('text', 'text'),
    (Text('text'), 'text'),
    (Real(0.5), 0.5),
    (np.float64(0.1), 0.1),
    (np.float32(0.5), 0.5),
    (np.int64(7), 7),
    (np.bool_(True), True),
    (np.str_('text'), 'text'),
    (Color.RED, 'red'),
    (Level.HIGH, 3),
    (Path('a') / 'b', str(Path('a/b'))),
    (PurePosixPath('/a'), '/a'),
    (torch.float16, 'torch.float16'),
    (torch.device('cuda:1'), 'cuda:1'),
    (torch.Size([2, 3]), (2, 3)),
    (Point(1, np.float64(2)), (1, 2.0)),
    ([1, (2, [3])], [1, (2, [3])]),
    ({3, 1, 2}, [1, 2, 3]),
    (frozenset('ba'), ['a', 'b']),
    ({'b', 1}, ['b', 1]),
    (OrderedDict(b=1, a=OrderedDict()), {'b': 1, 'a': {}}),
    (Counter('aab'), {'a': 2, 'b': 1}),
    (ConfigDict(a=ConfigDict(b=[1])), {'a': {'b': [1]}}),
    (Config(dict(a=dict(b=(1, )))), {'a': {'b': (1, )}}),
    ({np.int64(1): 'a', Color.RED: 'b', Point(1, 2): 'c'},
     {1: 'a', 'red': 'b', (1, 2): 'c'}),
    (np.array(['a', 'bc']), ['a', 'bc']),
    (np.array([['a'], ['b']]), [['a'], ['b']]),
    (np.arange(3), torch.arange(3)),
    (np.ones((2, 1), np.float32), torch.ones(2, 1)),
    (np.array(1.5), torch.tensor(1.5, dtype=torch.float64)),
    (np.arange(3)[::-1], torch.tensor([2, 1, 0])),
    (np.array([1, 2], '>i4'), torch.tensor([1, 2], dtype=torch.int32)),
    (np.array([2**32 - 1], np.uint32), torch.tensor([2**32 - 1])),
    (np.array([True]), torch.tensor([True])),
    (torch.arange(2), torch.arange(2)),
    (torch.nn.Parameter(torch.ones(1), requires_grad=False),
     torch.nn.Parameter(torch.ones(1), requires_grad=False)),
])  # yapf: disable
def test_plain_values(value, plain):
    found = to_plain(value)
    assert same(found, plain)
    loaded = saved_and_loaded(found)
    assert same(loaded, plain)
    assert same(from_plain(loaded), plain)


def test_the_value_is_left_as_it_is():
    tensor, array = torch.ones(1), np.ones(1)
    value = OrderedDict(tensor=tensor, array=array, buffer=HistoryBuffer())
    plain = to_plain(value)
    assert value['array'] is array and isinstance(value, OrderedDict)
    assert plain['tensor'] is tensor
    # later changes do not reach what is about to be saved
    array += 1
    assert plain['array'] == 1


class Marked(torch.Tensor):
    pass


def test_tensor_subclass():
    plain = to_plain([torch.ones(2).as_subclass(Marked)])
    assert type(plain[0]) is torch.Tensor
    assert same(saved_and_loaded(plain), [torch.ones(2)])


@pytest.mark.parametrize('value', [b'', b'ab\x00\xff'])
def test_bytes(value):
    plain = to_plain({'a': [value]})
    assert same(plain['a'][0]['data'],
                torch.tensor(list(value), dtype=torch.uint8))
    assert from_plain(saved_and_loaded(plain)) == {'a': [value]}


@pytest.mark.parametrize('values', [[], [0.1], [1 / 3, float('nan'), 1e-300]])
def test_history(values):
    buffer = HistoryBuffer(max_length=5)
    for count, value in enumerate(values, 1):
        buffer.update(value, count)
    plain = to_plain(buffer)
    assert list(plain) == [
        '__type__', 'log_history', 'count_history', 'max_length'
    ]
    assert plain['__type__'] == 'HistoryBuffer'
    assert plain['log_history'].dtype == torch.float64

    restored = from_plain(saved_and_loaded([plain]))[0]
    assert isinstance(restored, HistoryBuffer)
    assert restored.max_length == 5
    for one, other in zip(restored.data, buffer.data):
        assert one.dtype == other.dtype
        assert one.tobytes() == other.tobytes()

    for history in (buffer, restored):
        for value in range(4):
            history.update(value, 2)
        assert len(history.data[0]) == min(len(values) + 4, 5)
    assert restored.current() == 3
    # values over counts
    assert restored.mean(3) == buffer.mean(3) == (1 + 2 + 3) / (2 + 2 + 2)
    assert restored.statistics('max', 2) == 3


def test_history_of_whole_numbers():
    restored = from_plain(to_plain(HistoryBuffer([1, 2], [3, 4])))
    assert restored.data[0].tolist() == [1.0, 2.0]
    assert restored.data[1].tolist() == [3, 4]
    assert restored.mean() == 3 / 7


def test_restored_history_does_not_share_memory():
    plain = to_plain(HistoryBuffer([1.0], [1]))
    from_plain(plain).data[0][0] = 9
    assert plain['log_history'] == 1


@pytest.mark.parametrize('value', [
    {'__type__': 'HistoryBuffer'},
    {'__type__': 'other', 'data': torch.ones(1)},
    {'data': 1, 'other': 2},
])  # yapf: disable
def test_dicts_that_only_look_tagged(value):
    assert same(from_plain(to_plain(value)), value)


def test_from_plain_leaves_other_objects():
    """So files that were not made plain pass through unchanged."""
    value = OrderedDict(a=HistoryBuffer())
    assert from_plain(value) is value
    buffer = HistoryBuffer()
    assert from_plain({'a': buffer})['a'] is buffer


def test_message_hub():
    hub = MessageHub.get_instance('test_plain')
    for step in range(20):
        hub.update_scalar('train/loss', 1 / (step + 3), count=step + 1)
        hub.update_scalars(
            dict(lr=np.float64(0.1) * step, kd=torch.tensor(step / 7)))
    hub.update_scalar('train/time', 0.5, resumed=False)
    hub.update_info('epoch', np.int64(3))
    hub.update_info('last_ckpt', Path('epoch_3.pth'))
    hub.update_info('dataset_meta', dict(classes=('a', 'b')))
    hub.update_info('best_score', torch.tensor(71.5))

    state = saved_and_loaded(dict(message_hub=to_plain(hub.state_dict())))
    restored = MessageHub.get_instance('test_plain_restored')
    restored.load_state_dict(from_plain(state['message_hub']))

    assert list(restored.log_scalars) == ['train/loss', 'lr', 'kd']
    for name in restored.log_scalars:
        one, other = restored.get_scalar(name), hub.get_scalar(name)
        assert one.max_length == other.max_length
        for values, expected in zip(one.data, other.data):
            assert values.tobytes() == expected.tobytes()
        for statistic in ('mean', 'min', 'max'):
            assert one.statistics(statistic, 7) == other.statistics(
                statistic, 7)
        assert one.current() == other.current()
    assert restored.get_info('epoch') == 3
    assert restored.get_info('last_ckpt') == 'epoch_3.pth'
    assert restored.get_info('dataset_meta') == dict(classes=('a', 'b'))
    assert restored.get_info('best_score') == 71.5
    restored.update_scalar('train/loss', 0.25)
    assert restored.get_scalar('train/loss').current() == 0.25


LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-2**200, 2**200),
    st.floats(allow_nan=True), st.text(max_size=5),
    st.lists(st.floats(allow_nan=True), max_size=3).map(
        lambda values: torch.tensor(values, dtype=torch.float64)))
PLAIN = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=8)


@settings(max_examples=80, deadline=None)
@given(value=PLAIN)
def test_plain_structures_stay(value):
    plain = to_plain(value)
    assert same(plain, value)
    assert same(from_plain(saved_and_loaded(plain)), value)


FLOATS = st.floats(allow_nan=True)
OTHERS = st.recursive(
    st.one_of(
        LEAVES, st.binary(max_size=5), FLOATS.map(np.float64),
        st.sampled_from([Color.RED, Level.HIGH, Path('a'), torch.float16]),
        st.lists(FLOATS, max_size=3).map(np.array),
        st.lists(FLOATS, max_size=3).map(
            lambda values: HistoryBuffer(values, [1] * len(values))),
        st.sets(st.integers(), max_size=3)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner, inner).map(lambda pair: Point(*pair)),
        st.dictionaries(st.text(max_size=5), inner,
                        max_size=3).map(OrderedDict)),
    max_leaves=8)


@settings(max_examples=80, deadline=None)
@given(value=OTHERS)
def test_whatever_becomes_plain_can_be_loaded(value):
    plain = to_plain(value)
    loaded = saved_and_loaded(plain)
    assert same(loaded, plain)
    # what is plain is so for good, through any number of files
    assert same(to_plain(plain), plain)
    assert same(to_plain(from_plain(loaded)), plain)


@pytest.mark.parametrize('value, place', [
    ({'message_hub': {'runtime_info': {'foo': object()}}},
     'message_hub.runtime_info.foo: <class \'object\'>'),
    ({'a': [0, (1, {'b': print})]},
     'a[1][1].b: <class \'builtin_function_or_method\'>'),
    (object(), 'the value: <class \'object\'>'),
    ({'a': 1 + 2j}, 'a: <class \'complex\'>'),
    ({'a': np.longdouble(1)}, 'a: <class \'numpy.longdouble\'>'),
    ({'a': np.array([object()])}, 'a: object <class \'numpy.ndarray\'>'),
    ({'a': np.array([1], np.uint64)}, 'a: uint64 <class \'numpy.ndarray\'>'),
    ({'a': np.array([1], np.longdouble)}, 'a: '),
    ({'a': {object: 1}}, 'a.<class'),
    ({'a': {frozenset([1]): 1}}, 'a.frozenset({1}): key <class'),
    ({'a': {Path('b'): 1, 'b': 2}}, 'a.b: two keys'),
    (torch.nn.Linear(1, 1), 'the value: <class'),
])  # yapf: disable
def test_refused(value, place):
    with pytest.raises(TypeError) as caught:
        to_plain(value)
    assert str(caught.value).startswith(place)
    assert '\n' not in str(caught.value)


def test_to_host_gives_what_item_gives():
    values = [
        torch.tensor(0.1), 3, 0.5,
        torch.tensor(7),
        torch.tensor(0.1, dtype=torch.float64),
        torch.tensor(True),
        np.float64(2.5),
        torch.tensor(math.inf),
        torch.tensor(0.1, dtype=torch.bfloat16)
    ]
    found = to_host(values)
    for value, number in zip(values, found):
        expected = value.item() if hasattr(value, 'item') else value
        assert number == expected and type(number) is type(expected)
    assert to_host([]) == []
