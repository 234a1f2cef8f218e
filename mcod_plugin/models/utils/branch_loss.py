"""The loss of a branch's own head, its labels and its gradients."""
from typing import Any, Dict, Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmpretrain.models.classifiers import BaseClassifier
from mmpretrain.models.heads import ClsHead
from mmpretrain.models.losses import LabelSmoothLoss
from torch import Tensor

from mcod_plugin.structures import batch_fields

__all__ = [
    'branch_loss', 'gradient_ratio', 'logit_gradients', 'loss_owner',
    'soft_labels', 'total_loss'
]


def loss_owner(branch: BaseClassifier) -> nn.Module:
    """The module whose ``_get_loss(cls_score, data_samples)`` is the branch's
    own loss: its head, or itself if it has none."""
    return getattr(branch, 'head', None) or branch


def branch_loss(branch: BaseClassifier, logits: Tensor,
                data_samples: Sequence) -> Dict[str, Any]:
    """The loss that a branch has when it stands alone.

    Args:
        branch (BaseClassifier): The branch.
        logits (Tensor): Its logits ``(N, C)``.
        data_samples (BatchDataSample | Sequence[DataSample]): Annotations of
            the images.

    Returns:
        dict[str, Tensor]: The losses by name.
    """
    owner = loss_owner(branch)
    # What ClsHead does, without an object for every image.
    fields = batch_fields(data_samples)
    if (fields is not None
            and getattr(type(owner), '_get_loss', None) is ClsHead._get_loss
            and not owner.cal_acc):
        target = fields['gt_score' if 'gt_score' in fields else 'gt_label']
        if isinstance(owner.loss_module,
                      LabelSmoothLoss) and 'gt_score' not in fields:
            # It makes them itself, but has the host look at the labels first.
            target = F.one_hot(target, logits.size(1))
        loss = owner.loss_module(logits, target, avg_factor=logits.size(0))
        return dict(loss=loss)
    return owner._get_loss(logits, data_samples)


def total_loss(losses: Dict[str, Any]) -> Tensor:
    """What is minimised.

    Args:
        losses (dict[str, Tensor | list[Tensor]]): Losses, and what is only
            logged, by name.

    Returns:
        Tensor: The sum of the losses' means, as MMEngine makes it.
    """
    values = [value for key, value in losses.items() if 'loss' in key]
    return sum(
        part.mean() for value in values
        for part in (value if isinstance(value, list) else [value]))


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


def soft_labels(data_samples: Sequence, like: Tensor) -> Tensor:
    """The labels as probabilities.

    Args:
        data_samples (BatchDataSample | Sequence[DataSample]): Annotations of
            the images. ``gt_score``, if there is one, goes before
            ``gt_label``, as in MMPretrain's heads.
        like (Tensor): Logits ``(N, C)``, whose type, device and number of
            classes the result has.

    Returns:
        Tensor: Probabilities ``(N, C)``.
    """
    fields = batch_fields(data_samples)
    if fields is not None:
        scores, labels = fields.get('gt_score'), fields.get('gt_label')
    elif 'gt_score' in data_samples[0]:
        scores = torch.stack([sample.gt_score for sample in data_samples])
    else:
        scores = None
        labels = torch.cat([sample.gt_label for sample in data_samples])
    if scores is None:
        scores = F.one_hot(labels, like.size(1))
    return scores.to(like)
