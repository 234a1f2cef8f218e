import torch
from torch import Tensor, nn

from mcod_plugin.errors import check_number
from mcod_plugin.registry import MODELS


def discontinuous_kd_loss(student_logits: Tensor, teacher_logits: Tensor,
                          temperature: float) -> Tensor:
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

    Logits of half precision are compared in float32, also under autocast. No
    gradient flows to the teacher. A class whose probability is 0 to the
    teacher adds nothing.

    Args:
        student_logits (Tensor): Logits of shape ``(N, C)``, or ``(B, N, C)``
            of B students at once.
        teacher_logits (Tensor): Logits of the same shape, or of shape
            ``(N, C)`` if all students have the same teacher.
        temperature (float): The temperature, greater than 0.

    Returns:
        Tensor: The loss, a scalar; of B students their losses ``(B, )``.
    """
    check_number('temperature', temperature, minimum=0, exclusive=True)
    if student_logits.dim() not in (2, 3) or teacher_logits.shape not in (
            student_logits.shape, student_logits.shape[-2:]):
        raise ValueError(
            'student_logits and teacher_logits must have the same shape '
            '(N, C), or (B, N, C) for B students, whose teacher may be one '
            f'of (N, C); got {tuple(student_logits.shape)} and '
            f'{tuple(teacher_logits.shape)}')
    # Autocast lowers the precision of none of the operations below, so that
    # casting is enough. Switching it off here would shut out the devices that
    # know no autocast.
    dtype = torch.promote_types(student_logits.dtype, torch.float32)
    student = student_logits.to(dtype) / temperature
    teacher = teacher_logits.detach().to(dtype) / temperature
    student_log_prob = student.log_softmax(dim=-1)
    teacher_log_prob = teacher.log_softmax(dim=-1)
    teacher_prob = teacher_log_prob.exp()
    terms = teacher_prob * (teacher_log_prob - student_log_prob)
    # The limit of p log p at 0, which is 0 * -inf to the machine.
    terms = terms.masked_fill(teacher_prob == 0, 0.)
    return temperature**2 * terms.sum(dim=-1).mean(dim=-1)


@MODELS.register_module()
class DiscontinuousKDLoss(nn.Module):
    """Distillation loss between the logits of a student and of its teacher.

    See :func:`discontinuous_kd_loss`. The loss has no weight of its own and
    knows no time: when it applies and how strongly is up to the schedule.

    Args:
        temperature (float): The temperature, greater than 0.
            Defaults to 3.0.
    """

    def __init__(self, temperature: float = 3.0) -> None:
        super().__init__()
        check_number(
            'distill.temperature', temperature, minimum=0, exclusive=True)
        self.temperature = temperature

    def forward(self, student_logits: Tensor,
                teacher_logits: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            student_logits (Tensor): Logits of shape ``(N, C)``, or ``(B, N,
                C)`` of B students at once.
            teacher_logits (Tensor): Logits of the same shape, or of shape
                ``(N, C)`` if all students have the same teacher.

        Returns:
            Tensor: The loss, a scalar; of B students their losses ``(B, )``.
        """
        return discontinuous_kd_loss(student_logits, teacher_logits,
                                     self.temperature)

    def extra_repr(self) -> str:
        """The temperature, for ``print(model)``."""
        return f'temperature={self.temperature}'
