"""The labels of a batch, whatever form they have."""
from typing import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mcod_plugin.structures import BatchDataSample

__all__ = ['soft_labels']


def soft_labels(data_samples: Sequence, like: Tensor) -> Tensor:
    """The labels as probabilities.

    Args:
        data_samples (BatchDataSample | Sequence[DataSample]): Annotations of
            the images. ``gt_score``, if there is one, goes before
            ``gt_label``, as in the toolbox's heads.
        like (Tensor): Logits ``(N, C)``, whose type, device and number of
            classes the result has.

    Returns:
        Tensor: Probabilities ``(N, C)``.
    """
    if isinstance(data_samples, BatchDataSample) and not data_samples.touched:
        fields = data_samples.fields
        scores, labels = fields.get('gt_score'), fields.get('gt_label')
    elif 'gt_score' in data_samples[0]:
        scores = torch.stack([sample.gt_score for sample in data_samples])
    else:
        scores = None
        labels = torch.cat([sample.gt_label for sample in data_samples])
    if scores is None:
        scores = F.one_hot(labels, like.size(1))
    return scores.to(like)
