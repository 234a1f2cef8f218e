from typing import Dict, Optional, Sequence

from torch import Tensor, nn

from mcod_plugin.errors import check_number


class BaseKDLoss(nn.Module):
    """What a cohort asks of its distillation loss: how far branches are from
    their targets.

    A subclass has :meth:`forward`, and says by its attributes, of the class
    or of an instance, what else it is given. It is given nothing that it does
    not ask for. When the loss applies and how strongly is not its business.
    Parameters of its own have the gradient 0 in steps that do not distil.

    Attributes:
        needs_labels (bool): Whether it is called with ``labels=``, the labels
            as probabilities ``(N, C)``.
        needs_feats (bool): Whether it is called with ``feats=``, by branch
            the tuple of its backbone's features, and with ``names=``, those
            of the B branches.
        per_peer (bool): Whether it takes the logits of P peers, ``(B, P, N,
            C)`` or ``(P, N, C)``, for targets. Its teacher must give these.
        takes_alive (bool): Whether it is called with ``alive=`` once
            branches may be left out, which tells of each target whether there
            is one: booleans of the shape of the targets without ``(N, C)``.
        takes_multi_label (bool): Whether it is defined for images of several
            labels, whose scores are sigmoids of the logits, not their
            softmax. Labels are then 1 for each class that an image has.
        multi_label (bool): Whether the images have several labels. The cohort
            sets it before it calls :meth:`setup`.
        needs_own_grad (bool): Whether it is called with ``names=``, those of
            the B branches, and ``own_grad=``, the gradients ``(B, N, C)`` of
            their own losses at the logits, or None where no gradient is
            computed.
        ordered (bool): Whether its state goes by the order of the branches,
            so that a run is resumed in that order only.

    Examples:
        >>> class LogitLoss(BaseKDLoss):
        ...     '''The mean squared distance of the logits.'''
        ...     def forward(self, logits, targets):
        ...         return (logits - targets).square().mean((1, 2))
    """

    needs_labels = False
    needs_feats = False
    per_peer = False
    takes_alive = False
    takes_multi_label = False
    multi_label = False
    needs_own_grad = False
    ordered = False

    def setup(self,
              names: Sequence[str],
              num_classes: int,
              feat_shapes: Optional[Dict[str, tuple]] = None) -> None:
        """Check settings and make parameters. The cohort calls this once,
        when it is built.

        Args:
            names (Sequence[str]): Names of all branches.
            num_classes (int): Number C of classes.
            feat_shapes (dict[str, tuple], optional): By branch the shapes of
                its features for one image, if :attr:`needs_feats`. Defaults
                to None.

        Raises:
            ConfigError: If the loss is not for such a cohort.
        """

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Compute the losses of all branches that are distilled in a step.

        Args:
            logits (Tensor): Logits ``(B, N, C)`` of B branches.
            targets (Tensor): Their targets ``(B, N, C)``, or ``(N, C)`` if
                all have the same.

        Returns:
            Tensor: The losses ``(B, )``, unweighted.
        """
        raise NotImplementedError


def check_kd_arguments(student_logits: Tensor, teacher_logits: Tensor,
                       temperature: float) -> None:
    """Raise unless logits can be compared at a temperature, see
    :func:`discontinuous_kd_loss`: a ConfigError if it is not above 0, a
    ValueError if the shapes do not fit."""
    check_number('temperature', temperature, minimum=0, exclusive=True)
    if student_logits.dim() not in (2, 3) or teacher_logits.shape not in (
            student_logits.shape, student_logits.shape[-2:]):
        raise ValueError(
            'student_logits and teacher_logits must have the same shape '
            '(N, C), or (B, N, C) for B students, whose teacher may be one '
            f'of (N, C); got {tuple(student_logits.shape)} and '
            f'{tuple(teacher_logits.shape)}')
