from typing import Any, Dict, Optional, Sequence

import torch
from mmengine.dist import all_reduce
from torch import Tensor

from mcod_plugin.errors import ConfigError, check_number
from mcod_plugin.registry import MODELS
from mcod_plugin.utils.mesh import data_group, data_size
from ..utils.branch_loss import logit_gradients
from ..utils.build_part import build_part
from .base_kd_loss import BaseKDLoss


def balance_factors(own: Tensor, kd: Tensor, limit: float) -> Tensor:
    r"""Factors by which losses pull as hard as others.

    .. math::
        f = \min(\sqrt{s_{own} / s_{kd}}, \text{limit})

    Args:
        own (Tensor): Squared norms :math:`s_{own}` of the gradients that are
            to be equalled.
        kd (Tensor): Squared norms :math:`s_{kd}` of the gradients of the
            losses, of the same shape.
        limit (float): The greatest factor.

    Returns:
        Tensor: The factors, of the same shape; 0 where the loss has no
        gradient, which no factor would change.
    """
    return torch.where(kd > 0, (own / kd).sqrt().clamp(max=limit), 0.)


@MODELS.register_module()
class BalancedKDLoss(BaseKDLoss):
    r"""A distillation loss that pulls as hard as the labels do, so that the
    schedule's weight is the ratio of both whatever the data are.

    The loss of each branch is multiplied by a factor, through which no
    gradient flows,

    .. math::
        f = \min(\sqrt{m_{own} / m_{kd}}, \text{limit})

    where :math:`m` is the moving average, over the steps that distil, of the
    squared norm of the gradient at the branch's logits: of its own loss and
    of the distillation loss. With a weight :math:`w(t)` the distillation then
    has a gradient there that is on average :math:`w(t)` times as long as that
    of the own loss. In a single step it is at most :math:`w(t) / \sqrt{1 -
    \text{momentum}}` times the average one, since the step counts in both.

    Both averages start at 0 and have the same weights, so that the factor
    needs no correction for the start. A step whose gradients are not finite
    does not count, nor does an off-phase, a frozen branch or a step without a
    gradient. In each pass of an accumulated step the factor is that of the
    pass. In several processes the squared norms are those of the whole batch,
    which a few numbers are exchanged for, so that the state is equal in all.

    Args:
        loss (dict | nn.Module, optional): The distillation loss. Defaults to
            ``dict(type='mcod_plugin.DiscontinuousKDLoss')``.
        momentum (float): How much of an average is kept in a step, at least
            0 and less than 1. Defaults to 0.9.
        limit (float): The greatest factor. Without one, a branch that agrees
            with its teacher would be pulled by rounding errors.
            Defaults to 100.0.

    Attributes:
        squares (Tensor): The averages :math:`m_{own}` and :math:`m_{kd}`,
            ``(2, B)``, of all branches of the cohort. They are part of its
            state.
        needs_own_grad (bool): That it is called with ``own_grad``.
        ordered (bool): That :attr:`squares` go by the order of the branches.

    Raises:
        ConfigError: If a setting is none of those allowed.

    Examples:
        >>> model = dict(distill=dict(
        ...     type='mcod_plugin.BalancedKDLoss',
        ...     loss=dict(type='mcod_plugin.DiscontinuousKDLoss',
        ...               temperature=3.0)))
        >>> # and a schedule whose weight is the share of the pull
        >>> custom_hooks = [dict(
        ...     type='mcod_plugin.DiscontinuousKDHook', weight=(0.3, 0.3))]
    """

    needs_own_grad = True
    ordered = True

    def __init__(self,
                 loss: Any = None,
                 momentum: float = 0.9,
                 limit: float = 100.0) -> None:
        super().__init__()
        check_number('distill.momentum', momentum, minimum=0)
        if momentum >= 1:
            raise ConfigError('distill.momentum must be less than 1; got '
                              f'{momentum!r}')
        check_number('distill.limit', limit, minimum=0, exclusive=True)
        if loss is None:
            loss = dict(type='mcod_plugin.DiscontinuousKDLoss')
        loss = build_part('distill.loss', loss, BaseKDLoss)
        if loss.needs_feats:
            raise ConfigError('distill.loss of BalancedKDLoss must compare '
                              'logits, at which the pull is measured; got '
                              f'{type(loss).__name__}, which needs features')
        if loss.needs_own_grad:
            raise ConfigError('distill.loss of BalancedKDLoss must not be '
                              'scaled by the own loss already; got '
                              f'{type(loss).__name__}')
        self.loss = loss
        self.momentum = momentum
        self.limit = limit
        self.per_peer = loss.per_peer
        self.needs_labels = loss.needs_labels
        self.takes_alive = loss.takes_alive
        self.takes_multi_label = loss.takes_multi_label

    def setup(self,
              names: Sequence[str],
              num_classes: int,
              feat_shapes: Optional[Dict[str, Any]] = None) -> None:
        """Make the state, see :meth:`BaseKDLoss.setup`."""
        self.names = list(names)
        self.register_buffer('squares', torch.zeros(2, len(names)))
        self.loss.multi_label = self.multi_label
        self.loss.setup(names, num_classes, feat_shapes)

    def forward(self,
                logits: Tensor,
                targets: Tensor,
                own_grad: Optional[Tensor] = None,
                names: Optional[Sequence[str]] = None,
                **kwargs) -> Tensor:
        """Compute the losses ``(B, )``, see :class:`BaseKDLoss`. Without
        ``own_grad``, or in eval mode, the averages are used as they are;
        without ``names`` the branches are all of the cohort. ``kwargs`` are
        handed on to the loss."""
        losses = self.loss(logits, targets, **kwargs)
        # By views: an index would have to be moved to the device.
        columns = self.squares.unbind(1)
        columns = [
            columns[self.names.index(name)] for name in names or self.names
        ]
        squares = torch.stack(columns, 1)
        if own_grad is not None and self.training:
            kd_grad = logit_gradients([losses.sum()], [logits])[0]
            now = torch.stack([own_grad, kd_grad]).flatten(2).square().sum(-1)
            # Of W processes each has the gradient of its own mean, which in
            # that of the whole batch is divided by W.
            all_reduce(now, op='mean', group=data_group())
            now = now / data_size()
            finite = now.isfinite().all(0)
            squares = torch.where(
                finite, torch.lerp(now.to(squares), squares, self.momentum),
                squares)
            for column, value in zip(columns, squares.unbind(1)):
                column.copy_(value)
        factors = balance_factors(*squares, self.limit)
        return factors.to(losses) * losses

    def extra_repr(self) -> str:
        """The settings, for ``print(model)``."""
        return f'momentum={self.momentum}, limit={self.limit}'
