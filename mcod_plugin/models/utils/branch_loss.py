"""The loss of a branch's own head."""
from typing import Any, Dict, Sequence

import torch.nn as nn
import torch.nn.functional as F
from mmpretrain.models.classifiers import BaseClassifier
from mmpretrain.models.heads import ClsHead
from mmpretrain.models.losses import LabelSmoothLoss
from torch import Tensor

from mcod_plugin.structures import BatchDataSample

__all__ = ['branch_loss', 'loss_owner', 'total_loss']


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
    if (isinstance(data_samples, BatchDataSample) and not data_samples.touched
            and getattr(type(owner), '_get_loss', None) is ClsHead._get_loss
            and not owner.cal_acc):
        fields = data_samples.fields
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
