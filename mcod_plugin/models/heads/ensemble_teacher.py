import math
from typing import Callable, Dict, List

import torch
import torch.nn as nn
from torch import Tensor

from mcod_plugin.errors import check_choice
from mcod_plugin.registry import MODELS


def mean_logits(logits: List[Tensor]) -> Tensor:
    """The mean of the logits, which is the normalised geometric mean of the
    branches' probabilities.

    Args:
        logits (list[Tensor]): One tensor ``(N, C)`` a branch.

    Returns:
        Tensor: Ensemble logits ``(N, C)``.
    """
    return torch.stack(logits).mean(0)


def mean_probabilities(logits: List[Tensor]) -> Tensor:
    """The logarithm of the mean of the branches' probabilities.

    Args:
        logits (list[Tensor]): One tensor ``(N, C)`` a branch.

    Returns:
        Tensor: Ensemble logits ``(N, C)``, whose softmax is that mean.
    """
    log_probabilities = torch.stack(logits).log_softmax(-1)
    return log_probabilities.logsumexp(0) - math.log(len(logits))


FUSIONS: Dict[str, Callable[[List[Tensor]], Tensor]] = {
    'mean': mean_logits,
    'prob_mean': mean_probabilities,
}


@MODELS.register_module()
class EnsembleTeacher(nn.Module):
    """From all branches' logits to the targets and to the prediction of the
    ensemble.

    Args:
        fusion (str): The rule that makes one out of many:

            - ``'mean'``: mean of the logits.
            - ``'prob_mean'``: mean of the probabilities.

            Defaults to ``'mean'``.

    Raises:
        ConfigError: If ``fusion`` is no such rule.

    Examples:
        >>> teacher = EnsembleTeacher(fusion='mean')
        >>> logits = dict(a=torch.rand(4, 10), b=torch.rand(4, 10))
        >>> teacher.ensemble(logits).shape
        torch.Size([4, 10])
        >>> list(teacher(logits))
        ['a', 'b']
    """

    def __init__(self, fusion: str = 'mean') -> None:
        super().__init__()
        check_choice('model.teacher.fusion', fusion, FUSIONS)
        self.fusion = fusion

    def ensemble(self, logits: Dict[str, Tensor]) -> Tensor:
        """The prediction of the ensemble.

        Args:
            logits (dict[str, Tensor]): Logits ``(N, C)`` by branch.

        Returns:
            Tensor: Logits ``(N, C)`` of the ensemble.
        """
        return FUSIONS[self.fusion](list(logits.values()))

    @torch.no_grad()
    def forward(self, logits: Dict[str, Tensor]) -> Dict[str, Tensor]:
        """What each branch has to follow; no gradient flows through it.

        Args:
            logits (dict[str, Tensor]): Logits ``(N, C)`` by branch.

        Returns:
            dict[str, Tensor]: Target logits ``(N, C)`` by branch.
        """
        return dict.fromkeys(logits, self.ensemble(logits))

    def extra_repr(self) -> str:
        return f'fusion={self.fusion!r}'
