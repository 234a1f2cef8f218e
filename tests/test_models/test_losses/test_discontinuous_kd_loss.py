import math

import pytest
import torch
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS
from scipy.special import rel_entr, softmax
from scipy.stats import entropy

from mcod_plugin.errors import ConfigError
from mcod_plugin.models.losses import (DiscontinuousKDLoss,
                                       discontinuous_kd_loss)
from mcod_plugin.registry import MODELS

SHAPES = [(1, 2), (4, 10), (3, 100), (5, 1)]
TEMPERATURES = [0.5, 1, 3.0, 20]


def make_logits(shape=(4, 10), dtype=torch.double, seed=0):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(
        2, *shape, generator=generator, dtype=torch.double) * 4
    return student.to(dtype), teacher.to(dtype)


def loop_oracle(student, teacher, temperature):
    """The formula, one number at a time."""
    total = 0.
    for z_student, z_teacher in zip(student.tolist(), teacher.tolist()):
        exp_student = [math.exp(z / temperature) for z in z_student]
        exp_teacher = [math.exp(z / temperature) for z in z_teacher]
        for e_student, e_teacher in zip(exp_student, exp_teacher):
            q = e_student / sum(exp_student)
            p = e_teacher / sum(exp_teacher)
            total += p * math.log(p / q)
    return temperature**2 * total / len(student)


def test_by_hand():
    # Logits of 2 log 3 and 0 at temperature 2 are the odds 3 to 1.
    student = torch.zeros(1, 2)
    teacher = torch.tensor([[2 * math.log(3), 0.]])
    kl = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    loss = discontinuous_kd_loss(student, teacher, 2)
    assert loss.item() == pytest.approx(4 * kl, rel=1e-6)
    # the divergence is that from the student to the teacher, not back
    swapped = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    loss = discontinuous_kd_loss(teacher, student, 2)
    assert loss.item() == pytest.approx(4 * swapped, rel=1e-6)


@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('temperature', TEMPERATURES)
def test_equals_oracles(shape, temperature):
    student, teacher = make_logits(shape)
    loss = discontinuous_kd_loss(student, teacher, temperature)
    assert loss.shape == () and loss.dtype == torch.double
    p = softmax(teacher.numpy() / temperature, axis=1)
    q = softmax(student.numpy() / temperature, axis=1)
    for oracle in (loop_oracle(student, teacher, temperature),
                   temperature**2 * rel_entr(p, q).sum(axis=1).mean(),
                   temperature**2 * entropy(p, q, axis=1).mean()):
        assert loss.item() == pytest.approx(oracle, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize('shape', SHAPES)
def test_float32_equals_double(shape):
    student, teacher = make_logits(shape)
    loss = discontinuous_kd_loss(student.float(), teacher.float(), 3.0)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(
        loop_oracle(student, teacher, 3.0), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize('temperature', TEMPERATURES)
def test_shift_of_logits(temperature):
    student, teacher = make_logits()
    loss = discontinuous_kd_loss(student, teacher, temperature)
    shift = torch.linspace(-50, 50, len(student)).double()[:, None]
    torch.testing.assert_close(
        discontinuous_kd_loss(student + shift, teacher, temperature), loss)
    torch.testing.assert_close(
        discontinuous_kd_loss(student, teacher + shift, temperature), loss)


@pytest.mark.parametrize('dtype', [torch.half, torch.float, torch.double])
def test_equal_logits(dtype):
    student, _ = make_logits(dtype=dtype)
    teacher = student.clone()
    student.requires_grad_()
    loss = discontinuous_kd_loss(student, teacher, 3.0)
    loss.backward()
    assert loss == 0
    assert student.grad.abs().max() < 1e-6


@pytest.mark.parametrize('seed', range(10))
def test_not_negative(seed):
    student, teacher = make_logits(seed=seed)
    assert discontinuous_kd_loss(student, teacher, 3.0) > 0
    nearby = student + 1e-3 * teacher
    assert discontinuous_kd_loss(student, nearby, 3.0) > 0


def test_mean_over_batch():
    student, teacher = make_logits()
    loss = discontinuous_kd_loss(student, teacher, 3.0)
    torch.testing.assert_close(
        discontinuous_kd_loss(student.repeat(3, 1), teacher.repeat(3, 1), 3.0),
        loss)
    each = [
        discontinuous_kd_loss(student[i:i + 1], teacher[i:i + 1], 3.0)
        for i in range(len(student))
    ]
    torch.testing.assert_close(torch.stack(each).mean(), loss)


def test_order_of_classes_and_samples():
    student, teacher = make_logits()
    loss = discontinuous_kd_loss(student, teacher, 3.0)
    for dim in (0, 1):
        torch.testing.assert_close(
            discontinuous_kd_loss(student.flip(dim), teacher.flip(dim), 3.0),
            loss)


def test_no_gradient_to_the_teacher():
    student, teacher = make_logits()
    student.requires_grad_()
    # as an ensemble that the student is itself a part of
    teacher = (teacher + student) / 2
    part = teacher.detach()
    discontinuous_kd_loss(student, teacher, 3.0).backward()
    through_student, student.grad = student.grad, None
    discontinuous_kd_loss(student, part, 3.0).backward()
    assert torch.equal(through_student, student.grad)

    student, teacher = make_logits()
    teacher.requires_grad_()
    assert not discontinuous_kd_loss(student, teacher, 3.0).requires_grad


@pytest.mark.parametrize('temperature', TEMPERATURES)
def test_gradient(temperature):
    student, teacher = make_logits()
    student.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda logits: discontinuous_kd_loss(logits, teacher, temperature),
        student)
    # The derivative in closed form.
    loss = discontinuous_kd_loss(student, teacher, temperature)
    gradient, = torch.autograd.grad(loss, student)
    q = softmax(student.detach().numpy() / temperature, axis=1)
    p = softmax(teacher.numpy() / temperature, axis=1)
    expected = torch.from_numpy(temperature * (q - p) / len(student))
    torch.testing.assert_close(gradient, expected)


def test_gradient_at_high_temperature():
    # Hinton et al., section 2.1: it tends to the difference of the centred
    # logits over C, whatever the temperature.
    student, teacher = make_logits()
    difference = student - teacher
    expected = (difference - difference.mean(dim=1, keepdim=True)) / (
        student.shape[1] * student.shape[0])
    student.requires_grad_()
    for temperature in (1e4, 1e5):
        loss = discontinuous_kd_loss(student, teacher, temperature)
        gradient, = torch.autograd.grad(loss, student)
        torch.testing.assert_close(gradient, expected, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize('dtype', [torch.half, torch.bfloat16])
def test_half_is_compared_in_float32(dtype):
    student, teacher = make_logits(dtype=dtype)
    student.requires_grad_()
    loss = discontinuous_kd_loss(student, teacher, 3.0)
    assert loss.dtype == torch.float32
    assert torch.equal(
        loss, discontinuous_kd_loss(student.float(), teacher.float(), 3.0))
    loss.backward()
    assert student.grad.dtype == dtype


@pytest.mark.parametrize('dtype',
                         [torch.bfloat16, torch.float32, torch.double])
def test_autocast(dtype):
    student, teacher = make_logits(dtype=dtype)
    outside = discontinuous_kd_loss(student, teacher, 3.0)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        inside = discontinuous_kd_loss(student, teacher, 3.0)
    assert inside.dtype == outside.dtype
    assert torch.equal(inside, outside)


def test_autocast_after_a_layer():
    torch.manual_seed(0)
    student, teacher = torch.nn.Linear(8, 5), torch.nn.Linear(8, 5)
    images = torch.randn(4, 8)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        z_student, z_teacher = student(images), teacher(images)
        assert z_student.dtype == torch.bfloat16
        loss = discontinuous_kd_loss(z_student, z_teacher, 3.0)
    assert torch.equal(
        loss, discontinuous_kd_loss(z_student.float(), z_teacher.float(), 3.0))
    loss.backward()
    assert student.weight.grad.abs().sum() > 0
    assert teacher.weight.grad is None


@pytest.mark.parametrize('dtype', [torch.half, torch.float, torch.double])
@pytest.mark.parametrize('temperature', [0.1, 1.0, 3.0])
def test_extreme_logits(dtype, temperature):
    # The teacher's probabilities underflow to 0, the student's too.
    big = 3e4
    student = torch.tensor([[0., big], [-big, big], [1., 2.]], dtype=dtype)
    teacher = torch.tensor([[big, 0.], [-big, big], [-big, big]], dtype=dtype)
    student.requires_grad_()
    loss = discontinuous_kd_loss(student, teacher, temperature)
    loss.backward()
    assert loss.isfinite() and student.grad.isfinite().all()
    # The first sample costs the distance of its logits, the second nothing.
    last = math.log1p(math.exp(-1 / temperature))
    expected = (temperature * big + temperature**2 * last) / 3
    assert loss.item() == pytest.approx(expected, rel=1e-4)


def test_excluded_class():
    student, teacher = make_logits((4, 5))
    expected = discontinuous_kd_loss(student[:, :4], teacher[:, :4], 3.0)
    student[:, 4] = teacher[:, 4] = -math.inf
    student.requires_grad_()
    loss = discontinuous_kd_loss(student, teacher, 3.0)
    loss.backward()
    torch.testing.assert_close(loss, expected)
    assert student.grad.isfinite().all()


def test_nan_is_not_hidden():
    student, teacher = make_logits()
    teacher[0, 0] = math.nan
    assert discontinuous_kd_loss(student, teacher, 3.0).isnan()


# Several students at once


def make_students(num=3, shape=(4, 10), dtype=torch.double):
    pairs = [make_logits(shape, dtype, seed) for seed in range(num)]
    return tuple(torch.stack(logits) for logits in zip(*pairs))


@pytest.mark.parametrize('shared', [False, True])
@pytest.mark.parametrize('num', [1, 3])
@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('temperature', TEMPERATURES)
def test_students_equal_oracle(shared, num, shape, temperature):
    students, teachers = make_students(num, shape)
    given = teachers[0] if shared else teachers
    losses = discontinuous_kd_loss(students, given, temperature)
    assert losses.shape == (num, ) and losses.dtype == torch.double
    p = softmax(given.numpy() / temperature, axis=-1)
    q = softmax(students.numpy() / temperature, axis=-1)
    expected = temperature**2 * rel_entr(p, q).sum(-1).mean(-1)
    torch.testing.assert_close(
        losses, torch.from_numpy(expected), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize('shared', [False, True])
@pytest.mark.parametrize('dtype', [torch.half, torch.float, torch.double])
def test_students_equal_one_after_the_other(shared, dtype):
    students, teachers = make_students(dtype=dtype)
    students.requires_grad_()
    losses = discontinuous_kd_loss(students,
                                   teachers[0] if shared else teachers, 3.0)
    # Each weighs differently, so that none can stand in for another.
    weights = torch.tensor([1., 2., 4.], dtype=losses.dtype)
    gradient, = torch.autograd.grad((weights * losses).sum(), students)
    for index, student in enumerate(students.detach()):
        student.requires_grad_()
        loss = discontinuous_kd_loss(
            student, teachers[0 if shared else index], 3.0)
        assert torch.equal(losses[index], loss)
        expected, = torch.autograd.grad(weights[index] * loss, student)
        assert torch.equal(gradient[index], expected)


@pytest.mark.parametrize('shared', [False, True])
def test_gradient_of_students(shared):
    students, teachers = make_students()
    students.requires_grad_()
    teachers = (teachers[0] if shared else teachers).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda logits: discontinuous_kd_loss(logits, teachers, 3.0), students)
    losses = discontinuous_kd_loss(students, teachers, 3.0)
    gradient, = torch.autograd.grad(losses.sum(), students)
    q = softmax(students.detach().numpy() / 3., axis=-1)
    p = softmax(teachers.detach().numpy() / 3., axis=-1)
    torch.testing.assert_close(gradient, torch.from_numpy(3. * (q - p) / 4))
    with pytest.raises(RuntimeError, match='unused|not have been used'):
        torch.autograd.grad(
            discontinuous_kd_loss(students, teachers, 3.0).sum(), teachers)


def test_extreme_students():
    big = 3e4
    students = torch.tensor([[[0., big]], [[big, 0.]]], requires_grad=True)
    teacher = torch.tensor([[big, 0.]])
    losses = discontinuous_kd_loss(students, teacher, 3.0)
    losses.sum().backward()
    torch.testing.assert_close(losses.detach(), torch.tensor([3. * big, 0.]))
    assert students.grad.isfinite().all() and not students.grad[1].any()


# Use


def test_inputs_are_kept():
    student, teacher = make_logits()
    copies = student.clone(), teacher.clone()
    discontinuous_kd_loss(student, teacher, 3.0)
    assert torch.equal(student, copies[0])
    assert torch.equal(teacher, copies[1])


@pytest.mark.parametrize('shapes', [
    ((4, 10), (4, 11)),
    ((4, 10), (1, 10)),
    ((4, 10), (10, )),
    ((10, ), (10, )),
    ((2, 4, 10), (3, 4, 10)),
    ((2, 4, 10), (2, 10)),
    ((1, 2, 4, 10), (1, 2, 4, 10)),
])
def test_refuses_shapes(shapes):
    student, teacher = map(torch.zeros, shapes)
    with pytest.raises(ValueError) as info:
        discontinuous_kd_loss(student, teacher, 3.0)
    for shape in shapes:
        assert str(shape) in str(info.value)


@pytest.mark.parametrize('temperature',
                         [0, -1., math.inf, math.nan, '3', None, True])
def test_refuses_temperatures(temperature):
    got = rf'must be a finite number greater than 0; got {temperature!r}$'
    with pytest.raises(ConfigError, match=rf'^distill\.temperature {got}'):
        DiscontinuousKDLoss(temperature=temperature)
    logits = torch.zeros(2, 3)
    with pytest.raises(ConfigError, match=f'^temperature {got}'):
        discontinuous_kd_loss(logits, logits, temperature)


@pytest.mark.parametrize('registry', [MODELS, MMPRETRAIN_MODELS])
def test_build(registry):
    assert DefaultScope.get_current_instance().scope_name == 'mmpretrain'
    student, teacher = make_logits()
    module = registry.build(
        dict(type='mcod_plugin.DiscontinuousKDLoss', temperature=2))
    assert isinstance(module, DiscontinuousKDLoss)
    assert torch.equal(
        module(student, teacher), discontinuous_kd_loss(student, teacher, 2))
    assert 'temperature=2' in repr(module)
    assert not list(module.parameters()) and not module.state_dict()


def test_default_temperature():
    student, teacher = make_logits()
    module = MODELS.build(dict(type='mcod_plugin.DiscontinuousKDLoss'))
    assert torch.equal(
        module(student, teacher), discontinuous_kd_loss(student, teacher, 3.0))
