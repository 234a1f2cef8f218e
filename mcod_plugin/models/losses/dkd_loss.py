import math
from typing import Tuple

import torch
from torch import Tensor

from mcod_plugin.errors import ConfigError, check_number
from mcod_plugin.registry import MODELS
from .base_kd_loss import BaseKDLoss


def dkd_loss(student_logits: Tensor,
             teacher_logits: Tensor,
             labels: Tensor,
             temperature: float = 4.0,
             alpha: float = 1.0,
             beta: float = 8.0) -> Tensor:
    r"""Decoupled distillation loss: target class and other classes apart.

    For an image of class :math:`c`, with :math:`p` and :math:`q` the
    probabilities of teacher and student at temperature :math:`T`,

    .. math::
        L_c &= T^2 \left( \alpha\, TCKD_c + \beta\, NCKD_c \right) \\
        TCKD_c &= p_c \log \frac{p_c}{q_c}
            + (1 - p_c) \log \frac{1 - p_c}{1 - q_c} \\
        NCKD_c &= \sum_{j \neq c} \hat p_j \log \frac{\hat p_j}{\hat q_j},
            \quad \hat p_j = \frac{p_j}{1 - p_c}, \quad
            \hat q_j = \frac{q_j}{1 - q_c}

    and the loss is the mean over the images. This is equation 7 of `Decoupled
    Knowledge Distillation <https://arxiv.org/abs/2203.08679>`_ (Zhao et al.,
    CVPR 2022). With :math:`\alpha = 1` and :math:`\beta = 1 - p_c` it is
    the divergence of :func:`discontinuous_kd_loss`, which thereby says least
    about the other classes where the teacher is surest.

    Paper and public code are for images of one class. A mixed label counts
    here by its shares, as in the cross entropy: the loss of the image is
    :math:`\sum_c y_c L_c`.

    Logits of half precision are compared in float32. No gradient flows to the
    teacher. A class that both rule out by -inf adds nothing.

    Args:
        student_logits (Tensor): Logits of shape ``(N, C)``, or ``(B, N, C)``
            of B students at once.
        teacher_logits (Tensor): Logits of the same shape, or of shape
            ``(N, C)`` if all students have the same teacher.
        labels (Tensor): The labels as probabilities ``(N, C)``.
        temperature (float): The temperature, greater than 0.
            Defaults to 4.0.
        alpha (float): The weight of the target class. Defaults to 1.0.
        beta (float): The weight of the other classes. Defaults to 8.0.

    Returns:
        Tensor: The loss, a scalar; of B students their losses ``(B, )``.
    """
    dtype = torch.promote_types(student_logits.dtype, torch.float32)
    student, student_rest = _log_probabilities(
        student_logits.to(dtype) / temperature)
    teacher, teacher_rest = _log_probabilities(
        teacher_logits.detach().to(dtype) / temperature)
    out = teacher.isneginf()
    terms = teacher.exp() * (teacher - student).masked_fill(out, 0.)
    rest, rest_differences = teacher_rest.exp(), teacher_rest - student_rest
    target = terms + rest * rest_differences
    # The terms of all classes but one, as a difference from the sum of all.
    # Where this one may be near 1, nothing would be left of it by rounding.
    top = _most_likely(teacher)
    other = ((terms.sum(-1, keepdim=True) - terms) / rest.masked_fill(top, 1.)
             - rest_differences)
    p, q = (
        log_prob - log_rest.masked_fill(~top, 0.).sum(-1, keepdim=True)
        for log_prob, log_rest in ((teacher, teacher_rest),
                                   (student, student_rest)))
    others = p.masked_fill(top, -math.inf).exp() * (p - q).masked_fill(out, 0.)
    other = torch.where(top, others.sum(-1, keepdim=True), other)
    losses = alpha * target + beta * other
    shares = labels.to(dtype).expand_as(losses)
    # What no label names does not count, not even if it is infinite.
    losses = (shares * losses).masked_fill(shares == 0, 0.)
    return temperature**2 * losses.sum(-1).mean(-1)


def _log_probabilities(logits: Tensor) -> Tuple[Tensor, Tensor]:
    """Logarithms of the probability of each class and of all but it."""
    log_prob = logits.log_softmax(-1)
    top = _most_likely(log_prob)
    others = log_prob.masked_fill(top, -math.inf)
    # 1 - p is exact enough for all but the class that may be near 1.
    rest = torch.where(top, others.logsumexp(-1, keepdim=True),
                       torch.log1p(-others.exp()))
    return log_prob, rest


def _most_likely(log_prob: Tensor) -> Tensor:
    """Where the most likely class of each image is, one of them in a tie."""
    best = log_prob.argmax(-1, keepdim=True)
    return torch.zeros_like(log_prob, dtype=torch.bool).scatter(-1, best, True)


@MODELS.register_module()
class DKDLoss(BaseKDLoss):
    r"""Decoupled Knowledge Distillation (DKD): target class and other classes
    are weighted apart.

    See :func:`dkd_loss`, which says where the formula comes from and what is
    done with mixed labels. The defaults are those of the authors' code
    (mdistiller) for CIFAR-100, where a teacher that was trained before
    teaches one student, and where the weight rises over the first 20 of 240
    epochs; for ImageNet they have a temperature of 1 and a :math:`\beta` of
    0.5. Here the teacher is whatever the cohort's is, and the rise is up to
    the schedule.

    Args:
        temperature (float): The temperature, greater than 0.
            Defaults to 4.0.
        alpha (float): The weight of the target class, at least 0.
            Defaults to 1.0.
        beta (float): The weight of the other classes, at least 0; not both
            are 0. Defaults to 8.0.

    Attributes:
        needs_labels (bool): That it is called with ``labels``.

    Raises:
        ConfigError: If a setting is none of those allowed.

    Examples:
        >>> model = dict(distill=dict(
        ...     type='mcod_plugin.DKDLoss', temperature=4.0, beta=8.0))
    """

    needs_labels = True

    def __init__(self,
                 temperature: float = 4.0,
                 alpha: float = 1.0,
                 beta: float = 8.0) -> None:
        super().__init__()
        check_number(
            'distill.temperature', temperature, minimum=0, exclusive=True)
        check_number('distill.alpha', alpha, minimum=0)
        check_number('distill.beta', beta, minimum=0)
        if alpha == beta == 0:
            raise ConfigError('distill.alpha and distill.beta must not both '
                              'be 0')
        self.temperature = temperature
        self.alpha = alpha
        self.beta = beta

    def forward(self, logits: Tensor, targets: Tensor,
                labels: Tensor) -> Tensor:
        """Compute the losses ``(B, )``, see :class:`BaseKDLoss`; of one
        student's logits ``(N, C)`` a scalar."""
        return dkd_loss(logits, targets, labels, self.temperature, self.alpha,
                        self.beta)

    def extra_repr(self) -> str:
        """The settings, for ``print(model)``."""
        return (f'temperature={self.temperature}, alpha={self.alpha}, '
                f'beta={self.beta}')
