import math
from typing import Dict, Optional, Sequence

import torch
import torch.nn as nn
from torch import Tensor
from torch.nn.utils import skip_init

from mcod_plugin.registry import MODELS
from .base_teacher import BaseTeacher
from .fusion import soft_cross_entropy, weighted_sum


@MODELS.register_module()
class GatedTeacher(BaseTeacher):
    r"""An ensemble that learns for each image how much each branch counts.

    .. math::
        z = \sum_i g_i z_i, \quad
        g = \text{softmax}(W [p_1, \dots, p_B] + b), \quad
        p_i = \text{softmax}(z_i)

    It is trained by a cross entropy of its own, :meth:`loss`, in on- and
    off-phases alike: the gradient reaches the gate and, through the
    :math:`z_i` of the sum, the branches. The targets are the ensemble's
    logits, which no gradient flows through.

    This is ONE-style (`Knowledge Distillation by On-the-Fly Native Ensemble
    <https://arxiv.org/abs/1806.04606>`_, equations 2 to 7), not ONE: its
    branches have their low layers in common, and its gate sees the features
    of these. Networks of different structure share no layer, so that the gate
    sees the branches' probabilities, from which no gradient flows back.

    The gate starts with zeros, which makes the ensemble the mean of the
    logits, and takes no random numbers: the branches start from the same
    weights as with any other teacher.

    Attributes:
        ordered (bool): That its weights go by the order of the branches, so
            that a checkpoint fits a cohort of that order only.
        takes_alive (bool): That branches can be left out. The gate does
            without their probabilities and gives them no share.
    """

    ordered = True
    takes_alive = True

    def setup(self, names: Sequence[str], num_classes: int) -> None:
        """Make the gate; the cohort calls this once it is built.

        Args:
            names (Sequence[str]): Names of the B branches.
            num_classes (int): Number C of classes.
        """
        self.gate = skip_init(nn.Linear, len(names) * num_classes, len(names))
        for parameter in self.gate.parameters():
            nn.init.zeros_(parameter)

    def gates(self,
              logits: Dict[str, Tensor],
              alive: Optional[Dict[str, Tensor]] = None) -> Tensor:
        """How much each branch counts.

        Args:
            logits (dict[str, Tensor]): Logits ``(N, C)`` by branch.
            alive (dict[str, Tensor], optional): A boolean by branch; those
                for which it is False are left out. Their logits must be
                finite all the same. Defaults to all branches.

        Returns:
            Tensor: Shares ``(N, B)`` of the branches, whose sum is 1 for
            every image.
        """
        values = [value.detach().softmax(1) for value in logits.values()]
        if alive is not None:
            values = [
                torch.where(alive[name], value, 0.)
                for name, value in zip(logits, values)
            ]
        # Autocast computes the scores in half precision.
        scores = self.gate(torch.cat(values, dim=1)).to(values[0].dtype)
        if alive is not None:
            flags = torch.stack([alive[name] for name in logits])
            scores = torch.where(flags, scores, -math.inf)
        return scores.softmax(1)

    def ensemble(self,
                 logits: Dict[str, Tensor],
                 alive: Optional[Dict[str, Tensor]] = None) -> Tensor:
        """The prediction of the ensemble.

        Args:
            logits (dict[str, Tensor]): Logits ``(N, C)`` by branch.
            alive (dict[str, Tensor], optional): See :meth:`gates`.

        Returns:
            Tensor: Logits ``(N, C)`` of the ensemble.
        """
        gates = self.gates(logits, alive).unsqueeze(-1)
        return weighted_sum(gates, torch.stack(list(logits.values()), 1), 1)

    @torch.no_grad()
    def forward(
        self,
        logits: Dict[str, Tensor],
        alive: Optional[Dict[str, Tensor]] = None
    ) -> Dict[str, Tensor]:
        """What each branch has to follow; no gradient flows through it.

        Args:
            logits (dict[str, Tensor]): Logits ``(N, C)`` by branch.
            alive (dict[str, Tensor], optional): See :meth:`gates`.

        Returns:
            dict[str, Tensor]: The ensemble's logits ``(N, C)`` by branch.
        """
        return dict.fromkeys(logits, self.ensemble(logits, alive))

    def loss(self,
             logits: Dict[str, Tensor],
             labels: Tensor,
             alive: Optional[Dict[str, Tensor]] = None) -> Dict[str, Tensor]:
        """The loss of the ensemble itself, which is due in every step.

        Args:
            logits (dict[str, Tensor]): Logits ``(N, C)`` by branch.
            labels (Tensor): The labels as probabilities ``(N, C)``.
            alive (dict[str, Tensor], optional): See :meth:`gates`.

        Returns:
            dict[str, Tensor]: ``loss_ce``, a scalar.
        """
        fused = self.ensemble(logits, alive)
        return dict(loss_ce=soft_cross_entropy(fused, labels).mean())
