import math

import pytest
import torch

from mcod_plugin.errors import ConfigError
from mcod_plugin.models.heads import EnsembleTeacher
from mcod_plugin.registry import MODELS


def build(**kwargs):
    return MODELS.build(dict(type='mcod_plugin.EnsembleTeacher', **kwargs))


def make_logits(num=3, dtype=torch.double):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(num, 4, 5, generator=generator, dtype=dtype) * 3
    return {f'net{i}': value for i, value in enumerate(logits)}


def softmax(row):
    total = sum(math.exp(value) for value in row)
    return [math.exp(value) / total for value in row]


def mean_by_loop(logits):
    """One number at a time, over branches, samples and classes."""
    return [[sum(values) / len(values) for values in zip(*rows)]
            for rows in zip(*(value.tolist() for value in logits.values()))]


def prob_mean_by_loop(logits):
    tables = [[softmax(row) for row in value.tolist()]
              for value in logits.values()]
    return [[sum(values) / len(values) for values in zip(*rows)]
            for rows in zip(*tables)]


@pytest.mark.parametrize('num', [1, 2, 3])
def test_mean(num):
    logits = make_logits(num)
    torch.testing.assert_close(
        build(fusion='mean').ensemble(logits),
        torch.tensor(mean_by_loop(logits)).double(),
        rtol=1e-6,
        atol=1e-6)


@pytest.mark.parametrize('num', [1, 2, 3])
def test_prob_mean(num):
    logits = make_logits(num)
    fused = build(fusion='prob_mean').ensemble(logits)
    expected = torch.tensor(prob_mean_by_loop(logits), dtype=torch.double)
    torch.testing.assert_close(fused.exp(), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        fused.softmax(1), expected, rtol=1e-12, atol=1e-12)


def test_rules_differ():
    logits = make_logits()
    assert not torch.allclose(
        build(fusion='mean').ensemble(logits).softmax(1),
        build(fusion='prob_mean').ensemble(logits).softmax(1))


def test_prob_mean_of_extreme_logits():
    logits = dict(
        a=torch.tensor([[1e4, 0.]]), b=torch.tensor([[0., 1e4]]))
    fused = build(fusion='prob_mean').ensemble(logits)
    assert fused.softmax(1).tolist() == [[.5, .5]]


@pytest.mark.parametrize('fusion', ['mean', 'prob_mean'])
def test_targets(fusion):
    """Every branch has the ensemble for its target, without gradient."""
    teacher = build(fusion=fusion)
    logits = {
        name: value.requires_grad_()
        for name, value in make_logits().items()
    }
    targets = teacher(logits)
    assert list(targets) == list(logits)
    ensemble = teacher.ensemble(logits)
    assert ensemble.requires_grad
    for target in targets.values():
        assert not target.requires_grad
        assert torch.equal(target, ensemble)


@pytest.mark.parametrize('fusion', ['mean', 'prob_mean'])
@pytest.mark.parametrize('dtype', [torch.float, torch.double])
def test_dtype_is_kept(fusion, dtype):
    assert build(fusion=fusion).ensemble(make_logits(
        dtype=dtype)).dtype == dtype


def test_default_and_repr():
    teacher = build()
    assert isinstance(teacher, EnsembleTeacher) and teacher.fusion == 'mean'
    assert repr(teacher) == "EnsembleTeacher(fusion='mean')"
    assert not teacher.state_dict()


@pytest.mark.parametrize('fusion', ['median', None, 3])
def test_refused(fusion):
    with pytest.raises(ConfigError) as info:
        build(fusion=fusion)
    assert str(info.value) == ('model.teacher.fusion must be one of mean, '
                               f'prob_mean; got {fusion!r}')
