import numpy as np
import pytest
import torch
from scipy.special import softmax

from mcod_plugin.errors import ConfigError
from mcod_plugin.models.losses import BaseKDLoss, DISTLoss, dist_loss
from mcod_plugin.registry import MODELS


def make_logits(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(*shape, generator=generator).double()


def oracle(student, teacher, temperature, beta, gamma):
    """By NumPy's coefficients of correlation."""
    q, p = (
        softmax(value.detach().numpy() / temperature, axis=1)
        for value in (student, teacher))
    classes = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(q, p)])
    images = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(q.T, p.T)])
    return temperature**2 * (beta * (1 - classes) + gamma * (1 - images))


@pytest.mark.parametrize('settings', [(4., 2., 2.), (1., 1., 0.),
                                      (2.5, 0., 3.)])
def test_equals_oracle(settings):
    students, teacher = make_logits(3, 6, 5), make_logits(6, 5, seed=1)
    losses = dist_loss(students, teacher, *settings)
    assert losses.shape == (3, )
    for student, loss in zip(students, losses):
        # The 1e-8 beside the products of norms is not in the oracle.
        assert loss.item() == pytest.approx(
            oracle(student, teacher, *settings), rel=1e-6)
        torch.testing.assert_close(
            dist_loss(student, teacher, *settings), loss)
    own = dist_loss(students, teacher.expand_as(students), *settings)
    torch.testing.assert_close(own, losses)


def test_gradient():
    student = make_logits(6, 5).requires_grad_()
    teacher = make_logits(6, 5, seed=1).requires_grad_()
    gradient, = torch.autograd.grad(
        dist_loss(student, teacher, 4.), student)
    step = 1e-5
    for place in np.ndindex(6, 5):
        values = []
        for sign in (1, -1):
            moved = student.detach().clone()
            moved[place] += sign * step
            values.append(oracle(moved, teacher, 4., 2., 2.))
        slope = (values[0] - values[1]) / (2 * step)
        assert gradient[place].item() == pytest.approx(slope, abs=1e-5)
    with pytest.raises(RuntimeError, match='not have been used'):
        torch.autograd.grad(dist_loss(student, teacher), teacher)


def test_invariants():
    students, teacher = make_logits(3, 6, 5), make_logits(6, 5, seed=1)
    losses = dist_loss(students, teacher)
    # between full agreement and full disagreement
    assert ((losses > 0) & (losses < 2 * 2 * 2)).all()
    assert dist_loss(teacher - 3, teacher).abs() < 1e-4
    order = torch.tensor([2, 0, 1, 4, 3])
    torch.testing.assert_close(
        dist_loss(students[..., order], teacher[:, order]), losses)
    torch.testing.assert_close(
        dist_loss(students.flip(1), teacher.flip(0)), losses)
    # Any probabilities with the same relations will do.
    shrunk = (.5 * teacher.softmax(-1) + .5 / 5).log()
    assert dist_loss(shrunk, teacher).abs() < 1e-4


def test_constant_student():
    """One whose last layer starts with zeros is not torn away."""
    student = torch.zeros(6, 5, requires_grad=True)
    loss = dist_loss(student, make_logits(6, 5).float(), 4.)
    assert loss.item() == pytest.approx(16 * (2 + 2))
    gradient, = torch.autograd.grad(loss, student)
    assert not gradient.any()
    # and one image has no other to be compared with
    student = make_logits(1, 5).requires_grad_()
    teacher = make_logits(1, 5, seed=1)
    loss = dist_loss(student, teacher, 4., 0., 2.)
    assert loss.item() == 16 * 2
    gradient, = torch.autograd.grad(dist_loss(student, teacher), student)
    assert gradient.isfinite().all() and gradient.any()


@pytest.mark.parametrize('dtype', [torch.half, torch.bfloat16])
def test_half_is_compared_in_float32(dtype):
    students, teacher = (
        make_logits(*shape).to(dtype) for shape in ((2, 4, 5), (4, 5)))
    with torch.autocast('cpu', torch.bfloat16):
        loss = dist_loss(students, teacher)
    assert loss.dtype == torch.float
    assert torch.equal(loss, dist_loss(students.float(), teacher.float()))


def test_build():
    loss = MODELS.build(dict(type='mcod_plugin.DISTLoss', gamma=1.))
    assert isinstance(loss, BaseKDLoss) and not loss.needs_labels
    students, teacher = make_logits(3, 6, 5), make_logits(6, 5, seed=1)
    assert torch.equal(
        loss(students, teacher), dist_loss(students, teacher, 1., 2., 1.))
    assert 'temperature=1.0, beta=2.0, gamma=1.0' in repr(loss)


@pytest.mark.parametrize('settings, words', [
    (dict(temperature=-1), 'distill.temperature must be a finite number gre'),
    (dict(beta=-1), 'distill.beta must be a finite number of at least 0'),
    (dict(gamma=None), 'distill.gamma must be .*; got None'),
    (dict(beta=0, gamma=0), 'distill.beta and distill.gamma must not both'),
])
def test_refuses(settings, words):
    with pytest.raises(ConfigError, match=f'^{words}'):
        DISTLoss(**settings)
