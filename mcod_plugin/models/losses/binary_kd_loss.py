import torch
import torch.nn.functional as F
from torch import Tensor

from .base_kd_loss import check_kd_arguments


def binary_kd_loss(student_logits: Tensor, teacher_logits: Tensor,
                   temperature: float) -> Tensor:
    r"""Distillation loss of images of several labels: each class is a
    question of its own, whether an image has it.

    .. math::
        L = \frac{T^2}{N} \sum_{n=1}^{N} \sum_{c=1}^{C} \left(
            p_{nc} \log \frac{p_{nc}}{q_{nc}} +
            (1 - p_{nc}) \log \frac{1 - p_{nc}}{1 - q_{nc}} \right), \quad
        p_n = \sigma(z^t_n / T), \quad q_n = \sigma(z^s_n / T)

    with the names of :func:`discontinuous_kd_loss`, of which it is the
    counterpart: :math:`\sigma` is the sigmoid. It is summed over the classes
    and averaged over the samples, as MMPretrain's binary cross entropy is,
    which it is added to. The factor :math:`T^2` keeps the gradient from
    shrinking with the temperature.

    Logits of half precision are compared in float32. No gradient flows to the
    teacher. An answer whose probability is 0 to the teacher adds nothing.

    Args:
        student_logits (Tensor): Logits of shape ``(N, C)``, or ``(B, N, C)``
            of B students at once.
        teacher_logits (Tensor): Logits of the same shape, or of shape
            ``(N, C)`` if all students have the same teacher.
        temperature (float): The temperature, greater than 0.

    Returns:
        Tensor: The loss, a scalar; of B students their losses ``(B, )``.
    """
    check_kd_arguments(student_logits, teacher_logits, temperature)
    dtype = torch.promote_types(student_logits.dtype, torch.float32)
    student = student_logits.to(dtype) / temperature
    teacher = teacher_logits.detach().to(dtype) / temperature
    divergences = sum(
        _terms(sign * student, sign * teacher) for sign in (1, -1))
    return temperature**2 * divergences.sum(dim=-1).mean(dim=-1)


def _terms(student: Tensor, teacher: Tensor) -> Tensor:
    """What the one of two answers adds that is more likely the greater the
    logits are."""
    prob = teacher.sigmoid()
    terms = prob * (F.logsigmoid(teacher) - F.logsigmoid(student))
    # The limit of p log p at 0, which is 0 * -inf to the machine.
    return terms.masked_fill(prob == 0, 0.)
