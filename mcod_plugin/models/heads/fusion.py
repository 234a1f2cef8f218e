"""Rules that make one out of the logits of several branches."""
import math
from typing import List, Optional, Sequence, Tuple

import torch
from torch import Tensor

__all__ = [
    'confident_logits', 'mean_logits', 'mean_probabilities', 'min_logits',
    'soft_cross_entropy', 'weighted_sum'
]


def mean_logits(logits: Sequence[Tensor],
                weights: Optional[Sequence[float]] = None,
                alive: Optional[Sequence[Tensor]] = None) -> Tensor:
    """The mean of the logits, which is the normalised geometric mean of the
    branches' probabilities.

    Args:
        logits (Sequence[Tensor]): One tensor ``(N, C)`` a branch. A class may
            be ruled out by -inf, here and in the other rules.
        weights (Sequence[float], optional): How much each branch counts, in
            any unit. Defaults to equal weights.
        alive (Sequence[Tensor], optional): A boolean a branch: those for
            which it is False are left out. Their logits must be finite all
            the same. If no other has a weight, the others count the same.
            Defaults to all branches.

    Returns:
        Tensor: Ensemble logits ``(N, C)``.
    """
    if alive is not None:
        weights, logits = _live_weights(weights, logits, alive)
        total = sum(weight * value for weight, value in zip(weights, logits))
        return total / sum(weights)
    if weights is None:
        return torch.stack(list(logits)).mean(0)
    return sum(share * value for share, value in _shares(weights, logits))


def mean_probabilities(logits: Sequence[Tensor],
                       weights: Optional[Sequence[float]] = None,
                       alive: Optional[Sequence[Tensor]] = None) -> Tensor:
    """The logarithm of the mean of the branches' probabilities.

    Args:
        logits (Sequence[Tensor]): One tensor ``(N, C)`` a branch.
        weights (Sequence[float], optional): How much each branch counts, in
            any unit. Defaults to equal weights.
        alive (Sequence[Tensor], optional): See :func:`mean_logits`.

    Returns:
        Tensor: Ensemble logits ``(N, C)``, whose softmax is that mean.
    """
    if alive is not None:
        weights, logits = _live_weights(weights, logits, alive)
        total = sum(weights)
        terms = [
            value.log_softmax(-1) + (weight / total).log()
            for weight, value in zip(weights, logits)
        ]
        return _log_sum(torch.stack(terms))
    if weights is None:
        log_probabilities = torch.stack(list(logits)).log_softmax(-1)
        return _log_sum(log_probabilities) - math.log(len(logits))
    terms = [
        value.log_softmax(-1) + math.log(share)
        for share, value in _shares(weights, logits)
    ]
    return _log_sum(torch.stack(terms))


def min_logits(logits: Sequence[Tensor],
               labels: Tensor,
               alive: Optional[Sequence[Tensor]] = None) -> Tensor:
    r"""The least of the logits relative to the true class's.

    .. math::
        z_c = \min_k \left( z^k_c - \sum_j y_j z^k_j \right)

    This is KDCL-MinLogit (`Online Knowledge Distillation via Collaborative
    Learning <https://openaccess.thecvf.com/content_CVPR_2020/html/Guo_Online_
    Knowledge_Distillation_via_Collaborative_Learning_CVPR_2020_paper.html>`_,
    section 3.2), in which :math:`z^k_y` is subtracted. For a single label the
    sum is just that; mixed labels are what it adds. Classes that a branch
    rules out are not in its sum.

    Args:
        logits (Sequence[Tensor]): One tensor ``(N, C)`` a branch.
        labels (Tensor): The labels as probabilities ``(N, C)``.
        alive (Sequence[Tensor], optional): See :func:`mean_logits`.

    Returns:
        Tensor: Ensemble logits ``(N, C)``.
    """
    stacked = torch.stack(list(logits))
    true = labels * stacked.masked_fill(stacked.isneginf(), 0.)
    relative = stacked - true.sum(-1, keepdim=True)
    if alive is not None:
        flags = torch.stack(list(alive))[:, None, None]
        relative = torch.where(flags, relative, math.inf)
    return relative.amin(0)


def confident_logits(logits: Sequence[Tensor],
                     labels: Tensor,
                     alive: Optional[Sequence[Tensor]] = None) -> Tensor:
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
        alive (Sequence[Tensor], optional): See :func:`mean_logits`.

    Returns:
        Tensor: Ensemble logits ``(N, C)``.
    """
    stacked = torch.stack(list(logits))
    if len(stacked) == 1:
        return stacked[0]
    # Not infinite if the true class is ruled out: inf / inf is no share.
    cross_entropies = soft_cross_entropy(stacked, labels).clamp(
        max=torch.finfo(stacked.dtype).max)
    if alive is None:
        weights = (1 - cross_entropies.softmax(0)) / (len(stacked) - 1)
    else:
        flags = torch.stack(list(alive))[:, None]
        number = flags.sum()
        shares = torch.where(flags, cross_entropies, -math.inf).softmax(0)
        weights = torch.where(number > 1,
                              (1 - shares) / (number - 1).clamp(min=1), 1.)
        weights = torch.where(flags, weights, 0.)
    return weighted_sum(weights.unsqueeze(-1), stacked, 0)


def soft_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy ``(..., N)`` of each image, from logits ``(..., N, C)``
    and labels as probabilities ``(N, C)``. A class without a share in the
    label does not count, also if it is ruled out."""
    terms = labels * logits.log_softmax(-1)
    return -terms.masked_fill(labels == 0, 0.).sum(-1)


def weighted_sum(weights: Tensor, logits: Tensor, dim: int) -> Tensor:
    """Sum of weighted logits. A class that one branch rules out is ruled out,
    whatever the branch's weight, which may be 0 to the machine."""
    out = logits.isneginf()
    total = (weights * logits.masked_fill(out, 0.)).sum(dim)
    return total.masked_fill(out.any(dim), -math.inf)


def _log_sum(terms: Tensor) -> Tensor:
    """Logarithm of the sum of the branches' exponentials. Where all are 0, it
    is -inf and has a gradient of 0, which PyTorch would call NaN."""
    out = terms.isneginf().all(0)
    return terms.masked_fill(out, 0.).logsumexp(0).masked_fill(out, -math.inf)


def _shares(weights: Sequence[float],
            logits: Sequence[Tensor]) -> List[Tuple[float, Tensor]]:
    """What counts, with its share of the sum of the weights."""
    total = sum(weights)
    return [(weight / total, value) for weight, value in zip(weights, logits)
            if weight > 0]


def _live_weights(weights: Optional[Sequence[float]],
                  logits: Sequence[Tensor],
                  alive: Sequence[Tensor]) -> Tuple[Tensor, List[Tensor]]:
    """The weights, 0 for what is left out, and logits that they may be applied
    to. If no weight is left, all that lives counts the same."""
    live = torch.stack([flag.to(logits[0].dtype) for flag in alive])
    own = live
    if weights is not None:
        # No tensor of the numbers: it could not be recorded in a CUDA graph.
        own = torch.stack([w * flag for w, flag in zip(weights, live)])
        own = torch.where(own.sum() > 0, own, live)
    return own, [
        # A class may be ruled out by -inf.
        torch.where(weight > 0, value, 0.)
        for weight, value in zip(own, logits)
    ]
