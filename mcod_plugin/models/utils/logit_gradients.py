"""How hard losses pull at the logits of the branches."""
from typing import Sequence

import torch
from torch import Tensor

__all__ = ['gradient_ratio', 'logit_gradients']


def logit_gradients(losses: Sequence[Tensor],
                    logits: Sequence[Tensor]) -> Tensor:
    """The gradients of some losses, each at the logits of its branch.

    Only what lies between losses and logits is gone through, and it is kept
    for the backward pass of the step.

    Args:
        losses (Sequence[Tensor]): The loss of each of B branches, a scalar
            that depends on the logits of no other.
        logits (Sequence[Tensor]): Their logits ``(N, C)``.

    Returns:
        Tensor: Gradients ``(B, N, C)``; 0 for a loss that does not depend on
        the logits.
    """
    losses = [loss for loss in losses if loss.requires_grad]
    places = [i for i, value in enumerate(logits) if value.requires_grad]
    gradients = [torch.zeros_like(value) for value in logits]
    if losses and places:
        found = torch.autograd.grad(
            losses, [logits[i] for i in places],
            retain_graph=True,
            allow_unused=True)
        for i, gradient in zip(places, found):
            if gradient is not None:
                gradients[i] = gradient
    return torch.stack(gradients)


def gradient_ratio(kd: Tensor, own: Tensor) -> Tensor:
    """How hard the distillation pulls at the logits, against the labels.

    Args:
        kd (Tensor): Gradients ``(B, N, C)`` of the distillation losses.
        own (Tensor): Gradients ``(B, N, C)`` of the branches' own losses.

    Returns:
        Tensor: The ratios ``(B, )`` of their norms; 0 where the distillation
        does not pull, infinite where only the labels do not.
    """
    kd, own = (grads.flatten(1).norm(dim=1) for grads in (kd, own))
    return torch.where(kd > 0, kd / own, 0.)
