"""Rules that make one out of the logits of several branches."""
import math
from typing import List, Optional, Sequence, Tuple

import torch
from torch import Tensor

__all__ = [
    'confident_logits', 'mean_logits', 'mean_probabilities', 'min_logits'
]


def mean_logits(logits: Sequence[Tensor],
                weights: Optional[Sequence[float]] = None) -> Tensor:
    """The mean of the logits, which is the normalised geometric mean of the
    branches' probabilities.

    Args:
        logits (Sequence[Tensor]): One tensor ``(N, C)`` a branch.
        weights (Sequence[float], optional): How much each branch counts, in
            any unit. Defaults to equal weights.

    Returns:
        Tensor: Ensemble logits ``(N, C)``.
    """
    if weights is None:
        return torch.stack(list(logits)).mean(0)
    return sum(share * value for share, value in _shares(weights, logits))


def mean_probabilities(logits: Sequence[Tensor],
                       weights: Optional[Sequence[float]] = None) -> Tensor:
    """The logarithm of the mean of the branches' probabilities.

    Args:
        logits (Sequence[Tensor]): One tensor ``(N, C)`` a branch.
        weights (Sequence[float], optional): How much each branch counts, in
            any unit. Defaults to equal weights.

    Returns:
        Tensor: Ensemble logits ``(N, C)``, whose softmax is that mean.
    """
    if weights is None:
        log_probabilities = torch.stack(list(logits)).log_softmax(-1)
        return log_probabilities.logsumexp(0) - math.log(len(logits))
    terms = [
        value.log_softmax(-1) + math.log(share)
        for share, value in _shares(weights, logits)
    ]
    return torch.stack(terms).logsumexp(0)


def min_logits(logits: Sequence[Tensor], labels: Tensor) -> Tensor:
    r"""The least of the logits relative to the true class's.

    .. math::
        z_c = \min_k \left( z^k_c - \sum_j y_j z^k_j \right)

    This is KDCL-MinLogit (`Online Knowledge Distillation via Collaborative
    Learning <https://openaccess.thecvf.com/content_CVPR_2020/html/Guo_Online_
    Knowledge_Distillation_via_Collaborative_Learning_CVPR_2020_paper.html>`_,
    section 3.2), in which :math:`z^k_y` is subtracted. For a single label the
    sum is just that; mixed labels are what it adds.

    Args:
        logits (Sequence[Tensor]): One tensor ``(N, C)`` a branch.
        labels (Tensor): The labels as probabilities ``(N, C)``.

    Returns:
        Tensor: Ensemble logits ``(N, C)``.
    """
    stacked = torch.stack(list(logits))
    true = (labels * stacked).sum(-1, keepdim=True)
    return (stacked - true).amin(0)


def confident_logits(logits: Sequence[Tensor], labels: Tensor) -> Tensor:
    r"""The mean of the logits, in which a branch counts the more for an image
    the lower its cross entropy is there.

    .. math::
        z = \sum_k w_k z^k, \quad
        w_k = \frac{1}{K - 1}
            \left( 1 - \frac{\exp CE_k}{\sum_j \exp CE_j} \right)

    The weights of :math:`K` branches are those of CA-MKD
    (`Confidence-Aware Multi-Teacher Knowledge Distillation
    <https://arxiv.org/abs/2201.00007>`_, equation 2), which weighs one
    distillation loss for each teacher by them; here there is one loss, and
    they weigh the logits. A single branch has the weight 1.

    Args:
        logits (Sequence[Tensor]): One tensor ``(N, C)`` a branch.
        labels (Tensor): The labels as probabilities ``(N, C)``.

    Returns:
        Tensor: Ensemble logits ``(N, C)``.
    """
    stacked = torch.stack(list(logits))
    if len(stacked) == 1:
        return stacked[0]
    cross_entropies = -(labels * stacked.log_softmax(-1)).sum(-1)
    weights = (1 - cross_entropies.softmax(0)) / (len(stacked) - 1)
    return (weights.unsqueeze(-1) * stacked).sum(0)


def _shares(weights: Sequence[float],
            logits: Sequence[Tensor]) -> List[Tuple[float, Tensor]]:
    """What counts, with its share of the sum of the weights."""
    total = sum(weights)
    return [(weight / total, value) for weight, value in zip(weights, logits)
            if weight > 0]
