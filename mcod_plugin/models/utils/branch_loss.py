"""The loss of a branch's own head, its labels and its gradients."""
import inspect
from typing import Any, Dict, Optional, Sequence, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmengine.utils import is_method_overridden
from mmpretrain.models.classifiers import BaseClassifier, ImageClassifier
from mmpretrain.models.heads import ClsHead, MultiLabelClsHead
from mmpretrain.models.losses import LabelSmoothLoss
from mmpretrain.structures import label_to_onehot
from torch import Tensor

from mcod_plugin.structures import batch_fields

__all__ = [
    'branch_loss', 'gradient_ratio', 'has_margin', 'learns_from_features',
    'logit_gradients', 'loss_owner', 'soft_labels', 'total_loss'
]


def loss_owner(branch: nn.Module) -> nn.Module:
    """The module whose ``_get_loss(cls_score, data_samples)`` is the branch's
    own loss: the head of a classifier, or the branch itself if it has none.
    A plain network need not have that method."""
    if not isinstance(branch, BaseClassifier):
        return branch
    return getattr(branch, 'head', None) or branch


def learns_from_features(branch: nn.Module) -> bool:
    """Whether the branch's own loss is computed from the features that reach
    its head, by ``head.loss(feats, data_samples)``, and not from the logits,
    as by heads with margins."""
    if not isinstance(branch, ImageClassifier) or not branch.with_head:
        return False
    head = branch.head
    for base in (ClsHead, MultiLabelClsHead):
        if isinstance(head, base):
            return is_method_overridden('loss', base, head)
    return not hasattr(head, '_get_loss') and hasattr(head, 'loss')


def has_margin(branch: nn.Module) -> bool:
    """Whether the head of a branch moves the logit of the label, which it is
    told by ``target``, before it computes its loss."""
    return learns_from_features(branch) and 'target' in inspect.signature(
        branch.head.forward).parameters


def branch_loss(branch: nn.Module,
                logits: Tensor,
                data_samples: Sequence,
                feats: Optional[Tuple[Tensor, ...]] = None,
                multi_label: bool = False) -> Dict[str, Any]:
    """The losses by name that a branch has when it stands alone, from its
    logits ``(N, C)``, or from the ``feats`` that reach its head if it
    :func:`learns_from_features`. That takes labels: probabilities raise a
    ValueError.

    The loss of a plain network is the cross entropy, of several labels the sum
    of the binary ones over the classes, averaged over the images.
    """
    if feats is not None:
        fields = batch_fields(data_samples)
        if fields is not None and 'gt_label' not in fields:
            raise ValueError(f'{type(branch.head).__name__} computes its loss '
                             'from labels (N, ); got probabilities (N, C)')
        return branch.head.loss(feats, data_samples)
    owner = loss_owner(branch)
    if not hasattr(owner, '_get_loss'):
        return dict(loss=_plain_loss(logits, data_samples, multi_label))
    # What ClsHead does, without an object for every image.
    fields = batch_fields(data_samples)
    get_loss = getattr(type(owner), '_get_loss', None)
    if fields is not None and get_loss is MultiLabelClsHead._get_loss:
        target = soft_labels(data_samples, logits)
    elif (fields is not None and get_loss is ClsHead._get_loss
          and not owner.cal_acc):
        target = fields['gt_score' if 'gt_score' in fields else 'gt_label']
        if isinstance(owner.loss_module,
                      LabelSmoothLoss) and 'gt_score' not in fields:
            # It makes them itself, but has the host look at the labels first.
            target = F.one_hot(target, logits.size(1))
    else:
        return owner._get_loss(logits, data_samples)
    loss = owner.loss_module(logits, target, avg_factor=logits.size(0))
    return dict(loss=loss)


def _plain_loss(logits: Tensor, data_samples: Sequence,
                multi_label: bool) -> Tensor:
    fields = batch_fields(data_samples)
    if not multi_label and fields is not None and 'gt_score' not in fields:
        return F.cross_entropy(logits, fields['gt_label'])
    labels = soft_labels(data_samples, logits)
    if not multi_label:
        return F.cross_entropy(logits, labels)
    return F.binary_cross_entropy_with_logits(
        logits, labels, reduction='sum') / len(logits)


def total_loss(losses: Dict[str, Any]) -> Tensor:
    """What is minimised: the sum of the losses' means, as MMEngine makes it.
    What is only logged does not count."""
    values = [value for key, value in losses.items() if 'loss' in key]
    return sum(
        part.mean() for value in values
        for part in (value if isinstance(value, list) else [value]))


def logit_gradients(losses: Sequence[Tensor],
                    logits: Sequence[Tensor]) -> Tensor:
    """The gradients ``(B, N, C)`` of the losses of B branches, scalars, each
    at the logits ``(N, C)`` of its branch, on which no other depends; 0 for a
    loss that does not depend on them.

    Only what lies between losses and logits is gone through, and it is kept
    for the backward pass of the step.
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
    """How hard the distillation pulls at the logits, against the labels: the
    ratios ``(B, )`` of the norms of both gradients ``(B, N, C)``; 0 where the
    distillation does not pull, infinite where only the labels do not."""
    kd, own = (grads.flatten(1).norm(dim=1) for grads in (kd, own))
    return torch.where(kd > 0, kd / own, 0.)


def soft_labels(data_samples: Sequence, like: Tensor) -> Tensor:
    """The labels as probabilities ``(N, C)``, like the logits given; of an
    image of several labels 1 for each of them. ``gt_score``, if there is one,
    goes before ``gt_label``, as in MMPretrain's heads."""
    fields = batch_fields(data_samples)
    classes = like.size(1)
    if fields is not None:
        scores = fields.get('gt_score')
        if scores is None:
            scores = F.one_hot(fields['gt_label'], classes)
    elif 'gt_score' in data_samples[0]:
        scores = torch.stack([sample.gt_score for sample in data_samples])
    else:
        labels = [sample.gt_label for sample in data_samples]
        if all(len(label) == 1 for label in labels):
            scores = F.one_hot(torch.cat(labels), classes)
        else:
            scores = torch.stack(
                [label_to_onehot(label, classes) for label in labels])
    return scores.to(like)
