import math

import numpy as np
import pytest
import torch

from mcod_plugin.errors import ConfigError
from mcod_plugin.models.losses import (BaseKDLoss, DKDLoss,
                                       discontinuous_kd_loss, dkd_loss)
from mcod_plugin.registry import MODELS

LABELS = torch.eye(5, dtype=torch.double)[[3, 0, 4, 1]]
MIXED = .7 * LABELS + .3 * LABELS.roll(1, 0)


def make_logits(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(*shape, generator=generator).double()


def softmax(row):
    top = max(row)
    values = [math.exp(value - top) for value in row]
    return [value / sum(values) for value in values]


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q) if a > 0)


def parts(student, teacher, label, temperature):
    """Both terms of one image, by softmaxes over two and over C - 1."""
    q, p = (softmax([value / temperature for value in row])
            for row in (student, teacher))
    pairs = [[row[label], 1 - row[label]] for row in (p, q)]
    rest = [
        softmax([
            value / temperature for index, value in enumerate(row)
            if index != label
        ]) for row in (teacher, student)
    ]
    return kl(*pairs), kl(*rest), p[label]


def oracle(student, teacher, labels, temperature, alpha, beta):
    total = 0.
    for rows in zip(*(x.tolist() for x in (student, teacher, labels))):
        for label, share in enumerate(rows[2]):
            target, other, _ = parts(*rows[:2], label, temperature)
            total += share * (alpha * target + beta * other)
    return temperature**2 * total / len(student)


@pytest.mark.parametrize('labels', [LABELS, MIXED])
@pytest.mark.parametrize('settings', [(4., 1., 8.), (1., 1., .5),
                                      (2.5, 0., 1.), (2.5, 2., 0.)])
def test_equals_oracle(labels, settings):
    students, teacher = make_logits(3, 4, 5), make_logits(4, 5, seed=1)
    losses = dkd_loss(students, teacher, labels, *settings)
    assert losses.shape == (3, )
    for student, loss in zip(students, losses):
        assert loss.item() == pytest.approx(
            oracle(student, teacher, labels, *settings), rel=1e-12)
        alone = dkd_loss(student, teacher, labels, *settings)
        torch.testing.assert_close(alone, loss, rtol=1e-14, atol=0)
    # each with a teacher of its own
    own = dkd_loss(students, teacher.expand_as(students), labels, *settings)
    torch.testing.assert_close(own, losses, rtol=1e-14, atol=0)


def test_parts_make_the_divergence():
    """KL = TCKD + (1 - p) NCKD, whatever class is the target."""
    student, teacher = make_logits(1, 5), make_logits(1, 5, seed=1)
    expected = discontinuous_kd_loss(student, teacher, 2.).item()
    for label in range(5):
        rest = 1 - parts(student[0].tolist(), teacher[0].tolist(), label,
                         2.)[2]
        found = dkd_loss(student, teacher,
                         torch.eye(5).double()[[label]], 2., 1., rest)
        assert found.item() == pytest.approx(expected, rel=1e-12)


def test_invariants():
    students, teacher = make_logits(3, 4, 5), make_logits(4, 5, seed=1)
    losses = dkd_loss(students, teacher, LABELS)
    assert (losses > 0).all()
    torch.testing.assert_close(
        dkd_loss(teacher + 7, teacher, LABELS),
        torch.zeros(()).double(),
        atol=1e-12,
        rtol=0)
    # neither the order of classes nor that of images counts
    order = torch.tensor([2, 0, 1, 4, 3])
    torch.testing.assert_close(
        dkd_loss(students[..., order], teacher[:, order], LABELS[:, order]),
        losses)
    torch.testing.assert_close(
        dkd_loss(students.flip(1), teacher.flip(0), LABELS.flip(0)), losses)
    # linear in the labels
    torch.testing.assert_close(
        dkd_loss(students, teacher, MIXED), .7 * losses +
        .3 * dkd_loss(students, teacher, LABELS.roll(1, 0)))


@pytest.mark.parametrize('labels', [LABELS, MIXED])
def test_gradient(labels):
    """That of the formula, by differences of the oracle."""
    student = make_logits(4, 5).requires_grad_()
    teacher = make_logits(4, 5, seed=1).requires_grad_()
    settings = (2., 1., 8.)
    gradient, = torch.autograd.grad(
        dkd_loss(student, teacher, labels, *settings), student)
    step = 1e-5
    for place in np.ndindex(4, 5):
        values = []
        for sign in (1, -1):
            moved = student.detach().clone()
            moved[place] += sign * step
            values.append(
                oracle(moved, teacher.detach(), labels, *settings))
        slope = (values[0] - values[1]) / (2 * step)
        assert gradient[place].item() == pytest.approx(slope, abs=1e-8)
    with pytest.raises(RuntimeError, match='not have been used'):
        torch.autograd.grad(dkd_loss(student, teacher, labels), teacher)


@pytest.mark.parametrize('label', [0, 1])
@pytest.mark.parametrize('sure', [40., 1000.])
def test_sure_teacher_in_single_precision(label, sure):
    """What it says of the other classes is not lost in rounding."""
    teacher = torch.tensor([[sure, 1., 2., 0., -1.]])
    student = torch.tensor([[35., 0., 1., 3., 2.]], requires_grad=True)
    labels = torch.eye(5)[[label]]
    loss = dkd_loss(student, teacher, labels, 1., 1., 8.)
    exact = student.detach().double().requires_grad_()
    expected = dkd_loss(exact, teacher.double(), labels.double(), 1., 1., 8.)
    reference = 8 * parts(exact[0].tolist(), teacher[0].tolist(), label,
                          1.)[1]
    if label == 0:
        other = dkd_loss(student, teacher, labels, 1., 0., 8.)
        assert other.item() == pytest.approx(reference, rel=1e-3)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    gradients = [
        torch.autograd.grad(value, logits)[0].double()
        for value, logits in ((loss, student), (expected, exact))
    ]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


def test_class_that_all_rule_out():
    students, teacher = make_logits(2, 4, 5), make_logits(4, 5, seed=1)
    labels = torch.eye(5, dtype=torch.double)[[3, 0, 3, 1]]
    expected = dkd_loss(students[..., :4], teacher[:, :4], labels[:, :4])
    students[..., 4] = teacher[:, 4] = -math.inf
    students.requires_grad_()
    losses = dkd_loss(students, teacher, labels)
    torch.testing.assert_close(losses, expected, rtol=1e-12, atol=1e-12)
    losses.sum().backward()
    assert students.grad.isfinite().all()
    assert not students.grad[..., 4].any()


@pytest.mark.parametrize('dtype', [torch.half, torch.bfloat16])
def test_half_is_compared_in_float32(dtype):
    students, teacher = (
        make_logits(*shape).to(dtype) for shape in ((2, 4, 5), (4, 5)))
    with torch.autocast('cpu', torch.bfloat16):
        loss = dkd_loss(students, teacher, MIXED.float())
    assert loss.dtype == torch.float
    assert torch.equal(
        loss, dkd_loss(students.float(), teacher.float(), MIXED.float()))


def test_build():
    loss = MODELS.build(dict(type='mcod_plugin.DKDLoss', beta=2.))
    assert isinstance(loss, BaseKDLoss) and loss.needs_labels
    students, teacher = make_logits(3, 4, 5), make_logits(4, 5, seed=1)
    assert torch.equal(
        loss(students, teacher, labels=LABELS),
        dkd_loss(students, teacher, LABELS, 4., 1., 2.))
    assert 'temperature=4.0, alpha=1.0, beta=2.0' in repr(loss)


@pytest.mark.parametrize('settings, words', [
    (dict(temperature=0), 'distill.temperature must be a finite number gre'),
    (dict(alpha=-1), 'distill.alpha must be a finite number of at least 0'),
    (dict(beta='8'), "distill.beta must be .*; got '8'"),
    (dict(alpha=0, beta=0), 'distill.alpha and distill.beta must not both'),
])
def test_refuses(settings, words):
    with pytest.raises(ConfigError, match=f'^{words}'):
        DKDLoss(**settings)
