from typing import Optional

import torch
from torch import Tensor

from mcod_plugin.errors import check_choice, check_number
from mcod_plugin.registry import MODELS
from .base_kd_loss import BaseKDLoss
from .binary_kd_loss import binary_kd_loss
from .discontinuous_kd_loss import discontinuous_kd_loss

# What is made of the divergences from several peers.
REDUCTIONS = ('mean', 'sum')


def mutual_kd_loss(student_logits: Tensor,
                   peer_logits: Tensor,
                   temperature: float = 1.0,
                   alive: Optional[Tensor] = None,
                   reduction: str = 'mean',
                   multi_label: bool = False) -> Tensor:
    r"""Distillation loss between the logits of a student and of its peers.

    .. math::
        L_i = \frac{T^2}{P} \sum_{j \neq i}
            KL(\text{softmax}(z_j / T) \,\|\, \text{softmax}(z_i / T))

    where :math:`P` is the number of peers. This is what `Deep Mutual Learning
    <https://arxiv.org/abs/1706.00384>`_ (equation 9) adds to the cross
    entropy, with :math:`T = 1`. The authors' code does not divide by
    :math:`P`, which ``reduction='sum'`` follows; for two networks both are
    the same. See :func:`discontinuous_kd_loss` for each term. No gradient
    flows to the peers.

    Args:
        student_logits (Tensor): Logits of shape ``(N, C)``, or ``(B, N, C)``
            of B students at once.
        peer_logits (Tensor): Logits ``(P, N, C)`` of the peers, or
            ``(B, P, N, C)`` if every student has its own.
        temperature (float): The temperature, greater than 0.
            Defaults to 1.0.
        alive (Tensor, optional): Booleans ``(P, )``, or ``(B, P)``: peers for
            which it is False are left out of the mean, which is 0 without
            any. Their logits must be finite all the same. Defaults to all
            peers.
        reduction (str): What is made of the peers' divergences, ``'mean'`` or
            ``'sum'``. Defaults to ``'mean'``.
        multi_label (bool): Whether images have several labels, so that each
            term is a :func:`binary_kd_loss`. Defaults to False.

    Returns:
        Tensor: The loss, a scalar; of B students their losses ``(B, )``.
    """
    if student_logits.dim() not in (2, 3) or (
            peer_logits.shape[-2:] != student_logits.shape[-2:]
            or peer_logits.dim() < 3
            or peer_logits.shape[:-3] not in ((), student_logits.shape[:-2])):
        raise ValueError(
            'student_logits must be (N, C), or (B, N, C) for B students, and '
            'peer_logits (P, N, C), or (B, P, N, C) if each student has its '
            f'own; got {tuple(student_logits.shape)} and '
            f'{tuple(peer_logits.shape)}')
    check_choice('reduction', reduction, REDUCTIONS)
    divergence = binary_kd_loss if multi_label else discontinuous_kd_loss
    terms = torch.stack([
        divergence(student_logits, peer, temperature)
        for peer in peer_logits.unbind(-3)
    ], -1)
    if alive is not None:
        terms = torch.where(alive, terms, 0.)
    if reduction == 'sum':
        return terms.sum(-1)
    if alive is None:
        return terms.mean(-1)
    return terms.sum(-1) / alive.sum(-1).clamp(min=1)


@MODELS.register_module()
class MutualKDLoss(BaseKDLoss):
    """Distillation loss between the logits of a student and of its peers.

    See :func:`mutual_kd_loss`; the peers come from :class:`PeerTeacher`. The
    loss has no weight of its own and knows no time.

    Args:
        temperature (float): The temperature, greater than 0.
            Defaults to 1.0.
        reduction (str): What is made of the peers' divergences, ``'mean'`` as
            in the paper or ``'sum'`` as in the authors' code, which for
            :math:`P` peers is :math:`P` times as much.
            Defaults to ``'mean'``.

    Attributes:
        per_peer (bool): That it takes logits ``(P, N, C)`` of P peers.
        takes_alive (bool): That peers can be left out.

    Raises:
        ConfigError: If a setting is none of those allowed.
    """

    per_peer = True
    takes_alive = True
    takes_multi_label = True

    def __init__(self,
                 temperature: float = 1.0,
                 reduction: str = 'mean') -> None:
        super().__init__()
        check_number(
            'distill.temperature', temperature, minimum=0, exclusive=True)
        check_choice('distill.reduction', reduction, REDUCTIONS)
        self.temperature = temperature
        self.reduction = reduction

    def forward(self,
                student_logits: Tensor,
                peer_logits: Tensor,
                alive: Optional[Tensor] = None) -> Tensor:
        """Compute the losses ``(B, )``, see :class:`BaseKDLoss`; of one
        student's logits ``(N, C)`` a scalar. The peers' logits are ``(P, N,
        C)``, or ``(B, P, N, C)`` if every student has its own."""
        return mutual_kd_loss(student_logits, peer_logits, self.temperature,
                              alive, self.reduction, self.multi_label)

    def extra_repr(self) -> str:
        """The settings, for ``print(model)``."""
        return (f'temperature={self.temperature}, '
                f'reduction={self.reduction!r}')
