import math

import pytest
import torch

from mcod_plugin.models.losses import (DiscontinuousKDLoss, MutualKDLoss,
                                       binary_kd_loss)


def make_logits(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(*shape, generator=generator, dtype=torch.float64)


def by_loops(student, teacher, temperature):
    """The divergence of two coins for each class of each image."""
    total = 0.
    for own, other in zip(student.tolist(), teacher.tolist()):
        for z, z_t in zip(own, other):
            q, p = (1 / (1 + math.exp(-x / temperature)) for x in (z, z_t))
            total += p * math.log(p / q) + (1 - p) * math.log(
                (1 - p) / (1 - q))
    return temperature**2 * total / len(student)


@pytest.mark.parametrize('temperature', [1, 3.])
def test_agrees_with_loops(temperature):
    students, teachers = make_logits(2, 4, 5), make_logits(2, 4, 5, seed=1)
    found = binary_kd_loss(students, teachers, temperature)
    expected = [
        by_loops(*pair, temperature) for pair in zip(students, teachers)
    ]
    torch.testing.assert_close(found, torch.tensor(expected).double())
    # one teacher of all
    torch.testing.assert_close(
        binary_kd_loss(students, teachers[1], temperature)[1], found[1])
    loss = DiscontinuousKDLoss(temperature)
    loss.multi_label = True
    torch.testing.assert_close(loss(students, teachers), found)


def test_gradient():
    """At the logits it is T (q - p) / N, and none flows to the teacher."""
    student = make_logits(4, 5).requires_grad_()
    teacher = make_logits(4, 5, seed=1).requires_grad_()
    binary_kd_loss(student, teacher, 3.).backward()
    torch.testing.assert_close(
        student.grad,
        3 * ((student / 3).sigmoid() - (teacher / 3).sigmoid()).detach() / 4)
    assert teacher.grad is None
    assert torch.autograd.gradcheck(
        lambda z: binary_kd_loss(z, teacher.detach(), 2.), student)


def test_is_that_of_two_classes():
    """Of one class it is the divergence of softmax over (z, 0)."""
    student, teacher = make_logits(6, 1), make_logits(6, 1, seed=1)
    zeros = torch.zeros_like(student)
    torch.testing.assert_close(
        binary_kd_loss(student, teacher, 2.),
        DiscontinuousKDLoss(2.)(torch.cat([student, zeros], 1),
                                torch.cat([teacher, zeros], 1)))


def test_invariants():
    student, teacher = make_logits(4, 5), make_logits(4, 5, seed=1)
    assert binary_kd_loss(student, student, 3.) == 0
    assert binary_kd_loss(student, teacher, 3.) > 0
    # Classes are questions of their own, and each may be asked in reverse.
    order = torch.tensor([3, 1, 0, 4, 2])
    for other in (order, slice(None)):
        torch.testing.assert_close(
            binary_kd_loss(-student[:, other], -teacher[:, other], 3.),
            binary_kd_loss(student, teacher, 3.))


def test_what_is_certain():
    teacher = torch.tensor([[math.inf, -math.inf, 200., -200.]])
    student = torch.tensor([[1., -1., 1., -1.]], requires_grad=True)
    loss = binary_kd_loss(student, teacher, 1.)
    assert loss.item() == pytest.approx(4 * math.log(1 + math.exp(-1)))
    loss.backward()
    assert student.grad.isfinite().all()
    same = teacher.clone().requires_grad_()
    loss = binary_kd_loss(same, teacher, 1.)
    loss.backward()
    assert loss == 0 and (same.grad == 0).all()


def test_half_precision():
    student, teacher = make_logits(4, 5), make_logits(4, 5, seed=1)
    found = binary_kd_loss(student.bfloat16(), teacher.bfloat16(), 3.)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(
        binary_kd_loss(student.bfloat16().double(),
                       teacher.bfloat16().double(), 3.).item(),
        rel=1e-5)


@pytest.mark.parametrize('shapes', [((4, 5), (4, 6)), ((5, ), (5, )),
                                    ((2, 4, 5), (3, 4, 5))])
def test_bad_shapes(shapes):
    with pytest.raises(ValueError, match=r'\(N, C\)'):
        binary_kd_loss(*(make_logits(*shape) for shape in shapes), 1.)


def test_of_peers():
    students, peers = make_logits(2, 4, 5), make_logits(2, 3, 4, 5, seed=1)
    loss = MutualKDLoss(2.)
    loss.multi_label = True
    found = loss(students, peers)
    for student, own, value in zip(students, peers, found):
        terms = [by_loops(student, peer, 2.) for peer in own]
        assert value.item() == pytest.approx(sum(terms) / 3)
