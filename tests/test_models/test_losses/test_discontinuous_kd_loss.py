import math

import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS
from scipy.special import rel_entr, softmax
from scipy.stats import entropy

from mcod_plugin.errors import ConfigError
from mcod_plugin.models.losses import (DiscontinuousKDLoss,
                                       discontinuous_kd_loss)
from mcod_plugin.models.losses.discontinuous_kd_loss import (
    WHERE, selected_samples, standardized)
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


# Some of the samples


def make_labels(shape=(4, 10), mixed=False, seed=5):
    generator = torch.Generator().manual_seed(seed)
    if mixed:
        return torch.rand(*shape, generator=generator).double().softmax(1)
    classes = torch.randint(shape[1], shape[:1], generator=generator)
    return torch.eye(shape[1], dtype=torch.double)[classes]


def counts_by_loop(student, teacher, labels, where):
    """Whether each sample counts, one number at a time."""
    counts = []
    for row in zip(student.tolist(), teacher.tolist(), labels.tolist()):
        sums = []
        for logits in row[:2]:
            total = math.fsum(map(math.exp, logits))
            sums.append(
                math.fsum(y * math.exp(z) / total
                          for z, y in zip(logits, row[2])))
        best = max(range(len(row[1])), key=row[1].__getitem__)
        counts.append(
            dict(
                all=True,
                correct=row[2][best] == max(row[2]),
                surer=sums[1] > sums[0])[where])
    return counts


@pytest.mark.parametrize('mixed', [False, True])
@pytest.mark.parametrize('shape', [(64, 3), (40, 10)])
@pytest.mark.parametrize('where', WHERE)
def test_where_equals_loop(where, shape, mixed):
    student, teacher = make_logits(shape)
    labels = make_labels(shape, mixed)
    counts = counts_by_loop(student, teacher, labels, where)
    assert where == 'all' or 0 < sum(counts) < len(counts)
    found = selected_samples(student, teacher, labels, where)
    assert found.tolist() == counts
    each = [
        loop_oracle(student[i:i + 1], teacher[i:i + 1], 3.)
        for i in range(len(counts))
    ]
    expected = sum(x for x, y in zip(each, counts) if y) / len(counts)
    student.requires_grad_()
    loss = discontinuous_kd_loss(student, teacher, 3., where, labels)
    assert loss.item() == pytest.approx(expected, rel=1e-9)
    # Who does not count is not pulled, who counts as if all did.
    gradient, = torch.autograd.grad(loss, student)
    q = softmax(student.detach().numpy() / 3., axis=1)
    p = softmax(teacher.numpy() / 3., axis=1)
    full = torch.from_numpy(3. * (q - p) / len(counts))
    torch.testing.assert_close(gradient,
                               full * torch.tensor(counts)[:, None])


@pytest.mark.parametrize('shared', [False, True])
@pytest.mark.parametrize('where', WHERE)
def test_where_of_students(where, shared):
    students, teachers = make_students(shape=(32, 4))
    given, labels = teachers[0] if shared else teachers, make_labels((32, 4))
    losses = discontinuous_kd_loss(students, given, 2., where, labels)
    counts = selected_samples(students, given, labels, where)
    assert counts.shape == (3, 32)
    for index, student in enumerate(students):
        teacher = given if shared else given[index]
        assert torch.equal(
            losses[index],
            discontinuous_kd_loss(student, teacher, 2., where, labels))
        assert counts[index].tolist() == counts_by_loop(
            student, teacher, labels, where)


def test_where_no_sample_counts():
    student, _ = make_logits()
    teacher = -50. * make_labels()
    student.requires_grad_()
    for where in ('correct', 'surer'):
        loss = discontinuous_kd_loss(student, teacher, 3., where,
                                     make_labels())
        loss.backward()
        assert loss == 0 and not student.grad.any()


def test_where_two_labels_have_equal_shares():
    """Each of them is right."""
    labels = torch.tensor([[.5, .5, 0.]]).expand(3, 3)
    counts = selected_samples(torch.zeros(3, 3), torch.eye(3), labels,
                              'correct')
    assert counts.tolist() == [True, True, False]


@pytest.mark.parametrize('dtype', [torch.half, torch.bfloat16])
def test_where_compares_half_in_float32(dtype):
    student, teacher = make_logits((64, 5), dtype)
    labels = make_labels((64, 5))
    for where in WHERE:
        assert torch.equal(
            selected_samples(student, teacher, labels.to(dtype), where),
            selected_samples(student.float(), teacher.float(), labels, where))


# Standardised logits


def test_standardized_by_hand():
    # Mean 2 and standard deviation 2 of the first; equal logits are 0.
    logits = torch.tensor([[0., 4.], [5., 5.]], dtype=torch.double)
    expected = torch.tensor([[-1., 1.], [0., 0.]], dtype=torch.double)
    torch.testing.assert_close(
        standardized(logits), expected, rtol=1e-7, atol=1e-7)
    assert standardized(logits.half()).dtype == torch.float32


@pytest.mark.parametrize('shape', [(4, 10), (3, 2), (3, 100)])
@pytest.mark.parametrize('temperature', [1., 2.])
def test_standardized_equals_oracle(shape, temperature):
    student, teacher = make_logits(shape)
    student.requires_grad_()

    def z_scores(logits):
        values = logits.detach().numpy()
        values = values - values.mean(1, keepdims=True)
        # The root as in the paper, of which C - 1 would be another.
        return values / np.sqrt((values**2).mean(1, keepdims=True))

    def loss(logits):
        return discontinuous_kd_loss(
            logits, teacher, temperature, standardize=True)

    q, p = (
        softmax(z_scores(logits) / temperature, axis=1)
        for logits in (student, teacher))
    expected = temperature**2 * rel_entr(p, q).sum(axis=1).mean()
    assert loss(student).item() == pytest.approx(expected, rel=1e-6)
    assert torch.autograd.gradcheck(loss, student)
    # Neither side's scale or offset matters.
    torch.testing.assert_close(
        discontinuous_kd_loss(
            4 * student + 1, 9 * teacher - 2, temperature, standardize=True),
        loss(student),
        rtol=1e-6,
        atol=1e-12)


def test_standardized_where_logits_are_equal():
    student, teacher = make_logits()
    student[1] = teacher[2] = 7.
    student.requires_grad_()
    loss = discontinuous_kd_loss(student, teacher, 3., standardize=True)
    loss.backward()
    assert loss > 0 and student.grad.isfinite().all()


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float32])
def test_standardized_under_autocast(dtype):
    student, teacher = make_logits(dtype=dtype)
    outside = discontinuous_kd_loss(student, teacher, 3., standardize=True)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        inside = discontinuous_kd_loss(student, teacher, 3., standardize=True)
    assert inside.dtype == torch.float32 and torch.equal(inside, outside)


# Use


@pytest.mark.parametrize('where', WHERE)
@pytest.mark.parametrize('standardize', [False, True])
def test_settings_of_the_module(where, standardize):
    student, teacher = make_logits((32, 4))
    labels = make_labels((32, 4))
    module = MODELS.build(
        dict(
            type='mcod_plugin.DiscontinuousKDLoss',
            temperature=2.,
            where=where,
            standardize=standardize))
    assert module.needs_labels == (where != 'all')
    given = dict(labels=labels) if module.needs_labels else {}
    assert torch.equal(
        module(student, teacher, **given),
        discontinuous_kd_loss(student, teacher, 2., where, labels,
                              standardize))
    assert (repr(where) in repr(module)) == module.needs_labels
    assert ('standardize' in repr(module)) == standardize


@pytest.mark.parametrize('settings, message', [
    (dict(where='right'),
     "where must be one of all, correct, surer; got 'right'"),
    (dict(where=None), 'where must be one of all, correct, surer; got None'),
    (dict(standardize=1), 'standardize must be one of False, True; got 1'),
])
def test_refuses_settings(settings, message):
    with pytest.raises(ConfigError, match=rf'^distill\.{message}$'):
        DiscontinuousKDLoss(**settings)


def test_labels_that_are_missing():
    student, teacher = make_logits()
    with pytest.raises(ValueError, match="^where='surer' needs labels$"):
        discontinuous_kd_loss(student, teacher, 3., 'surer')
    with pytest.raises(ConfigError, match='^where must be one of all, .*sure'):
        discontinuous_kd_loss(student, teacher, 3., 'sure')


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
