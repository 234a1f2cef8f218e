import pytest
import torch

from mcod_plugin.errors import ConfigError
from mcod_plugin.models.necks import LayoutPooling
from mcod_plugin.registry import MODELS


def build(**kwargs):
    return MODELS.build(dict(type='mcod_plugin.LayoutPooling', **kwargs))


def mean_of(vectors):
    return [sum(column) / len(vectors) for column in zip(*vectors)]


def make_feature(*shape):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator, dtype=torch.double)


def test_map():
    feature = make_feature(2, 3, 4, 5)
    pooled, = build(layout='NHWC')((feature, ))
    expected = [
        mean_of([pixel for row in image for pixel in row])
        for image in feature.tolist()
    ]
    torch.testing.assert_close(pooled, torch.tensor(expected).double())


@pytest.mark.parametrize('num_prefix_tokens', [0, 1, 3])
def test_tokens(num_prefix_tokens):
    feature = make_feature(2, 4, 5)
    neck = build(layout='tokens', num_prefix_tokens=num_prefix_tokens)
    expected = [
        mean_of(tokens[num_prefix_tokens:]) for tokens in feature.tolist()
    ]
    torch.testing.assert_close(
        neck((feature, ))[0],
        torch.tensor(expected).double())


def test_class_token():
    feature = make_feature(2, 4, 5)
    pooled, = build(layout='class_token')((feature, ))
    for image in range(2):
        assert pooled[image].tolist() == feature[image].tolist()[0]


def test_only_the_last_stage_counts():
    first, last = make_feature(2, 8, 3), make_feature(2, 4, 5)
    neck = build(layout='tokens')
    pooled = neck((first, last))
    assert isinstance(neck, LayoutPooling)
    assert isinstance(pooled, tuple) and len(pooled) == 1
    assert torch.equal(pooled[0], neck((last, ))[0])


def test_no_state():
    assert not build(layout='NHWC').state_dict()


def test_repr():
    assert repr(build(layout='tokens', num_prefix_tokens=2)) == (
        "LayoutPooling(layout='tokens', num_prefix_tokens=2)")


@pytest.mark.parametrize('kwargs, message', [
    (dict(layout='NCHW'), "^neck.layout must be one of .*; got 'NCHW'$"),
    (dict(layout='tokens', num_prefix_tokens=-1),
     '^neck.num_prefix_tokens .*; got -1$'),
    (dict(layout='tokens', num_prefix_tokens=1.), '^neck.num_.*; got 1.0$'),
])
def test_refused(kwargs, message):
    with pytest.raises(ConfigError, match=message):
        build(**kwargs)
