import math
from typing import Dict, Optional, Sequence

import torch
from torch import Tensor

from mcod_plugin.errors import ConfigError
from mcod_plugin.registry import MODELS
from .base_teacher import BaseTeacher
from .fusion import mean_logits


@MODELS.register_module()
class PeerTeacher(BaseTeacher):
    """Every branch follows each of its peers, and there is no ensemble among
    the targets.

    Together with :class:`MutualKDLoss` this is `Deep Mutual Learning
    <https://arxiv.org/abs/1706.00384>`_, with all branches updated in the
    same step. The ensemble predicts by the mean of the logits.

    Attributes:
        per_peer (bool): That the targets are logits ``(P, N, C)`` of P peers.
        takes_alive (bool): That branches can be left out.

    Examples:
        >>> teacher = PeerTeacher()
        >>> logits = {name: torch.rand(4, 10) for name in 'abc'}
        >>> teacher(logits)['a'].shape
        torch.Size([2, 4, 10])
    """

    per_peer = True
    takes_alive = True
    takes_multi_label = True

    def setup(self, names: Sequence[str], num_classes: int) -> None:
        """Check that there are peers, see :meth:`BaseTeacher.setup`."""
        if len(names) < 2:
            raise ConfigError('model.teacher.type PeerTeacher needs at least '
                              f'two branches; got {", ".join(names)}')

    def ensemble(self,
                 logits: Dict[str, Tensor],
                 alive: Optional[Dict[str, Tensor]] = None) -> Tensor:
        """The mean of the logits, see :meth:`BaseTeacher.ensemble`. Branches
        that are not ``alive`` are left out; their logits must be finite all
        the same."""
        flags = None if alive is None else [alive[name] for name in logits]
        return mean_logits(list(logits.values()), alive=flags)

    @torch.no_grad()
    def forward(
        self,
        logits: Dict[str, Tensor],
        alive: Optional[Dict[str, Tensor]] = None
    ) -> Dict[str, Tensor]:
        """By branch the logits ``(B - 1, N, C)`` of its peers, in the order of
        the branches; NaN for those left out. See
        :meth:`BaseTeacher.forward`."""
        if alive is not None:
            logits = {
                name: torch.where(alive[name], value, math.nan)
                for name, value in logits.items()
            }
        return {
            name: torch.stack(
                [value for peer, value in logits.items() if peer != name])
            for name in logits
        }
