import math
from typing import Dict, Optional, Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils import skip_init

from mcod_plugin.errors import check_choice
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
    logits. ONE's has batch norm and ReLU between :math:`W` and the softmax;
    ``norm`` puts them there:

    .. math::
        g = \text{softmax}(\text{ReLU}(\text{BN}(W [p_1, \dots, p_B] + b)))

    An image for which a branch scores less than it does on average is then
    one of the average. Zeros would stay zeros there, so that this gate starts
    as any linear layer of PyTorch does. In training, batch norm has the
    statistics of the batch, and takes them into those that a prediction uses
    once a step. In either case no number is taken from the global random
    state: the branches start from the same weights as with any other teacher.

    Args:
        norm (bool): Whether there are batch norm and ReLU in the gate, as in
            ONE. Defaults to False.

    Attributes:
        ordered (bool): That its weights go by the order of the branches, so
            that a checkpoint fits a cohort of that order only.
        takes_alive (bool): That branches can be left out. The gate does
            without their probabilities and gives them no share.
    """

    ordered = True
    takes_alive = True

    def __init__(self, norm: bool = False) -> None:
        super().__init__()
        check_choice('model.teacher.norm', norm, (True, False))
        self.norm = norm

    def setup(self, names: Sequence[str], num_classes: int) -> None:
        """Make the gate, see :meth:`BaseTeacher.setup`."""
        inputs = len(names) * num_classes
        self.gate = skip_init(nn.Linear, inputs, len(names))
        if not self.norm:
            for parameter in self.gate.parameters():
                nn.init.zeros_(parameter)
            return
        self.gate_norm = nn.BatchNorm1d(len(names))
        generator = torch.Generator().manual_seed(torch.initial_seed())
        with torch.no_grad():
            for parameter in self.gate.parameters():
                parameter.uniform_(
                    -inputs**-0.5, inputs**-0.5, generator=generator)

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
        return self._gates(logits, alive)

    def _gates(self,
               logits: Dict[str, Tensor],
               alive: Optional[Dict[str, Tensor]],
               track: bool = False) -> Tensor:
        """See :meth:`gates`; ``track`` updates the statistics that batch norm
        uses in eval mode."""
        values = [value.detach().softmax(1) for value in logits.values()]
        if alive is not None:
            values = [
                torch.where(alive[name], value, 0.)
                for name, value in zip(logits, values)
            ]
        # Autocast computes the scores in half precision.
        scores = self.gate(torch.cat(values, dim=1)).to(values[0].dtype)
        if self.norm:
            scores = self._normed(scores, track).relu()
        if alive is not None:
            flags = torch.stack([alive[name] for name in logits])
            scores = torch.where(flags, scores, -math.inf)
        return scores.softmax(1)

    def ensemble(self,
                 logits: Dict[str, Tensor],
                 alive: Optional[Dict[str, Tensor]] = None) -> Tensor:
        """The prediction of the ensemble ``(N, C)``, see :meth:`gates` and
        :meth:`BaseTeacher.ensemble`."""
        return self._fused(logits, self.gates(logits, alive))

    def _fused(self, logits: Dict[str, Tensor], gates: Tensor) -> Tensor:
        return weighted_sum(
            gates.unsqueeze(-1), torch.stack(list(logits.values()), 1), 1)

    def _normed(self, scores: Tensor, track: bool) -> Tensor:
        """Scores ``(N, B)`` of the mean 0 and the variance 1."""
        norm = self.gate_norm
        # A single image has no statistics.
        training = self.training and len(scores) > 1
        # The targets are made of the same scores as the loss. Only in one of
        # both the statistics may take them in.
        running = (norm.running_mean, norm.running_var)
        if training and not track:
            running = (None, None)
        return F.batch_norm(scores, *running, norm.weight, norm.bias, training,
                            norm.momentum, norm.eps)

    @torch.no_grad()
    def forward(
        self,
        logits: Dict[str, Tensor],
        alive: Optional[Dict[str, Tensor]] = None
    ) -> Dict[str, Tensor]:
        """The ensemble's logits ``(N, C)`` for every branch, see :meth:`gates`
        and :meth:`BaseTeacher.forward`."""
        return dict.fromkeys(logits, self.ensemble(logits, alive))

    def loss(self,
             logits: Dict[str, Tensor],
             labels: Tensor,
             alive: Optional[Dict[str, Tensor]] = None) -> Dict[str, Tensor]:
        """The cross entropy of the ensemble itself as ``loss_ce``, see
        :attr:`BaseTeacher.loss`."""
        fused = self._fused(logits, self._gates(logits, alive, track=True))
        return dict(loss_ce=soft_cross_entropy(fused, labels).mean())

    def extra_repr(self) -> str:
        """The settings, for ``print(model)``."""
        return f'norm={self.norm}'
