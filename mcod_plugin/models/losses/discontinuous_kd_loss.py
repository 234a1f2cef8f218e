from typing import Any, Dict, Optional, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mcod_plugin.errors import ConfigError, check_choice, check_number
from mcod_plugin.registry import MODELS
from .base_kd_loss import BaseKDLoss, check_kd_arguments
from .binary_kd_loss import binary_kd_loss

# On which images a branch is distilled.
WHERE = ('all', 'correct', 'surer')


def discontinuous_kd_loss(student_logits: Tensor,
                          teacher_logits: Tensor,
                          temperature: float,
                          where: str = 'all',
                          labels: Optional[Tensor] = None,
                          standardize: bool = False) -> Tensor:
    r"""Distillation loss between the logits of a student and of its teacher.

    .. math::
        L = \frac{T^2}{N} \sum_{n=1}^{N} \sum_{c=1}^{C}
            p_{nc} \log \frac{p_{nc}}{q_{nc}}, \quad
        p_n = \text{softmax}(z^t_n / T), \quad
        q_n = \text{softmax}(z^s_n / T)

    where :math:`z^t` are the teacher's and :math:`z^s` the student's logits,
    :math:`T` is the temperature, :math:`N` the number of samples and
    :math:`C` the number of classes.

    The divergence is summed over the classes and averaged over the samples
    only, as the cross entropy is which it is added to. A mean over all
    elements, the ``'mean'`` of :func:`torch.nn.functional.kl_div`, would be
    :math:`C` times smaller.

    The gradients of soft targets shrink as :math:`1 / T^2`. The factor
    :math:`T^2` undoes that, so that the share of the distillation in the
    total loss hardly changes with the temperature (`Distilling the Knowledge
    in a Neural Network <https://arxiv.org/abs/1503.02531>`_, section 2).

    Samples may be left out: those that the teacher gets wrong, or of whose
    label it is no surer than the student. The mean is over all :math:`N`
    samples even then, so that a sample that counts pulls as hard whatever the
    others do, and a batch in which none counts has the loss 0.

    Logits of half precision are compared in float32, also under autocast. No
    gradient flows to the teacher. A class whose probability is 0 to the
    teacher adds nothing.

    Args:
        student_logits (Tensor): Logits of shape ``(N, C)``, or ``(B, N, C)``
            of B students at once.
        teacher_logits (Tensor): Logits of the same shape, or of shape
            ``(N, C)`` if all students have the same teacher.
        temperature (float): The temperature, greater than 0.
        where (str): Which samples count; see :func:`selected_samples`.
            Defaults to ``'all'``.
        labels (Tensor, optional): The labels as probabilities ``(N, C)``,
            which any other ``where`` than ``'all'`` needs. Defaults to None.
        standardize (bool): Whether to compare :func:`standardized` logits.
            Defaults to False.

    Returns:
        Tensor: The loss, a scalar; of B students their losses ``(B, )``.
    """
    check_kd_arguments(student_logits, teacher_logits, temperature)
    # Autocast lowers the precision of none of the operations below, so that
    # casting is enough. Switching it off here would shut out the devices that
    # know no autocast.
    dtype = torch.promote_types(student_logits.dtype, torch.float32)
    student = student_logits.to(dtype)
    teacher = teacher_logits.detach().to(dtype)
    if standardize:
        student, teacher = standardized(student), standardized(teacher)
    student, teacher = student / temperature, teacher / temperature
    student_log_prob = student.log_softmax(dim=-1)
    teacher_log_prob = teacher.log_softmax(dim=-1)
    teacher_prob = teacher_log_prob.exp()
    terms = teacher_prob * (teacher_log_prob - student_log_prob)
    # The limit of p log p at 0, which is 0 * -inf to the machine.
    terms = terms.masked_fill(teacher_prob == 0, 0.)
    divergences = terms.sum(dim=-1)
    if where != 'all':
        counts = selected_samples(student_logits, teacher_logits, labels,
                                  where)
        divergences = divergences.masked_fill(~counts, 0.)
    return temperature**2 * divergences.mean(dim=-1)


@torch.no_grad()
def selected_samples(student_logits: Tensor, teacher_logits: Tensor,
                     labels: Optional[Tensor], where: str) -> Tensor:
    """The samples in which a teacher has something to say.

    Args:
        student_logits (Tensor): Logits of shape ``(N, C)`` or ``(B, N, C)``.
        teacher_logits (Tensor): Logits of the same shape or ``(N, C)``.
        labels (Tensor, optional): The labels as probabilities ``(N, C)``;
            None only for ``'all'``.
        where (str): The rule:

            - ``'all'``: all samples.
            - ``'correct'``: those in which the class that the teacher finds
              most likely is the label; of mixed labels one with the greatest
              share.
            - ``'surer'``: those in which the teacher gives the label a higher
              probability than the student does, both without temperature. Of
              mixed labels it is the mean over their shares.

    Returns:
        Tensor: Whether each counts, ``(N, )`` or ``(B, N)``.

    Raises:
        ConfigError: If there is no such rule.
        ValueError: If labels are needed and not given.
    """
    check_choice('where', where, WHERE)
    if where == 'all':
        return torch.ones_like(student_logits[..., 0], dtype=torch.bool)
    if labels is None:
        raise ValueError(f'where={where!r} needs labels')
    if where == 'correct':
        best = teacher_logits.argmax(-1, keepdim=True)
        shares = labels.expand_as(teacher_logits)
        right = shares.gather(-1, best).squeeze(-1) == labels.amax(-1)
        return right.expand(student_logits.shape[:-1])
    dtype = torch.promote_types(student_logits.dtype, torch.float32)
    student, teacher = (
        (labels.to(dtype) * logits.to(dtype).softmax(-1)).sum(-1)
        for logits in (student_logits, teacher_logits))
    return teacher > student


def standardized(logits: Tensor) -> Tensor:
    r"""Logits of which each sample has the mean 0 and the variance 1.

    .. math::
        z'_{nc} = \frac{z_{nc} - \mu_n}{\sqrt{\sigma_n^2 + \epsilon}}, \quad
        \epsilon = 10^{-7}

    where :math:`\mu_n` and :math:`\sigma_n^2` are the mean and the variance
    (divided by :math:`C`) over the classes. This is the z-score of `Logit
    Standardization in Knowledge Distillation
    <https://arxiv.org/abs/2403.01427>`_ (Sun et al., CVPR 2024), after which
    a student has to match the relations between logits, not their scale. Of
    equal logits, where the paper's is not defined, it is 0.

    Args:
        logits (Tensor): Logits ``(..., C)``.

    Returns:
        Tensor: Their z-scores, of the same shape, in at least float32.
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    return F.layer_norm(logits.to(dtype), logits.shape[-1:], eps=1e-7)


@MODELS.register_module()
class DiscontinuousKDLoss(BaseKDLoss):
    """Distillation loss between the logits of a student and of its teacher.

    See :func:`discontinuous_kd_loss`, of images of several labels
    :func:`binary_kd_loss`. The loss has no weight of its own and knows no
    time: when it applies and how strongly is up to the schedule.

    Args:
        temperature (float): The temperature, greater than 0. At a high one
            the gradient at the logits tends to the difference of the logits
            over the number of classes C, so what suits 100 classes is strong
            for 10. Defaults to 3.0.
        where (str): On which images a branch is distilled: ``'all'``,
            ``'correct'``, where the teacher is right, or ``'surer'``, where it
            gives the label a higher probability than the branch does. See
            :func:`selected_samples`. Defaults to ``'all'``.
        standardize (bool): Whether the logits of both sides are divided by
            their standard deviation over the classes first, see
            :func:`standardized`. Unlike in the paper, the teacher learns as
            well, and weight and temperature stay what they are set to; the
            authors' code has 9 and 2, and the standard deviation of a sample
            (divided by C - 1). ``where`` looks at the logits as they are.
            Defaults to False.

    Attributes:
        needs_labels (bool): Whether it is called with ``labels``.

    Raises:
        ConfigError: If a setting is none of those allowed.
    """

    takes_multi_label = True

    def __init__(self,
                 temperature: float = 3.0,
                 where: str = 'all',
                 standardize: bool = False) -> None:
        super().__init__()
        check_number(
            'distill.temperature', temperature, minimum=0, exclusive=True)
        check_choice('distill.where', where, WHERE)
        check_choice('distill.standardize', standardize, (True, False))
        self.temperature = temperature
        self.where = where
        self.standardize = standardize
        self.needs_labels = where != 'all'

    def setup(self,
              names: Sequence[str],
              num_classes: int,
              feat_shapes: Optional[Dict[str, Any]] = None) -> None:
        """Check the settings, see :meth:`BaseKDLoss.setup`: some are not for
        images of several labels."""
        for setting, allowed in dict(where='all', standardize=False).items():
            given = getattr(self, setting)
            if self.multi_label and given != allowed:
                raise ConfigError(
                    f'model.distill.{setting} must be {allowed!r} for images '
                    f'of several labels; got {given!r}, which is for one of '
                    'several classes')

    def forward(self,
                student_logits: Tensor,
                teacher_logits: Tensor,
                labels: Optional[Tensor] = None) -> Tensor:
        """Compute the losses ``(B, )``, see :class:`BaseKDLoss`; of one
        student's logits ``(N, C)`` a scalar."""
        if self.multi_label:
            return binary_kd_loss(student_logits, teacher_logits,
                                  self.temperature)
        return discontinuous_kd_loss(student_logits, teacher_logits,
                                     self.temperature, self.where, labels,
                                     self.standardize)

    def extra_repr(self) -> str:
        """The settings, for ``print(model)``."""
        text = f'temperature={self.temperature}'
        if self.where != 'all':
            text += f', where={self.where!r}'
        return text + ', standardize=True' * self.standardize
