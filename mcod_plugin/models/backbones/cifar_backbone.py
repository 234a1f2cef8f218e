from abc import abstractmethod
from numbers import Integral
from typing import List, Optional, Sequence, Tuple, Union

import torch.nn as nn
from mmcv.cnn import build_norm_layer
from mmpretrain.models.backbones.base_backbone import BaseBackbone
from torch import Tensor

from mcod_plugin.errors import ConfigError, check_integer

# He initialization for networks whose norm layers keep the scale.
INIT_CFG = [
    dict(type='Kaiming', layer=['Conv2d']),
    dict(type='Constant', val=1, layer=['_BatchNorm', 'GroupNorm'])
]


def resolve_out_indices(setting: str, out_indices: Union[int, Sequence[int]],
                        num_stages: int) -> Tuple[int, ...]:
    """The stages that ``out_indices`` names, from 0 on and in rising order;
    negative numbers count from the last one. Raise unless they are stages, at
    least one, and none twice."""
    allowed = range(-num_stages, num_stages)
    indices = (
        list(out_indices)
        if isinstance(out_indices, (list, tuple)) else [out_indices])
    good = all(
        isinstance(index, Integral) and not isinstance(index, bool)
        and index in allowed for index in indices)
    stages = sorted({index % num_stages for index in indices}) if good else []
    if not stages or len(stages) != len(indices):
        raise ConfigError(
            f'{setting} must be one or more different stages from '
            f'{allowed[0]} to {allowed[-1]}; got {out_indices!r}')
    return tuple(stages)


class CifarBackbone(BaseBackbone):
    """Base of the CIFAR-sized networks: a stem and stages, one by one.

    A subclass sets ``num_stages``, and its ``__init__`` replaces ``stem``
    where it has one, fills ``stages`` and sets ``out_channels``.

    Args:
        in_channels (int): Channels of the input.
        out_indices (int | Sequence[int]): Stages whose output is returned.
            Negative numbers count from the last stage.
        norm_cfg (dict, optional): Config of the norm layers. None is for a
            network that has none. Defaults to None.
        init_cfg (dict | list[dict], optional): Initialization config.
            Defaults to None.

    Attributes:
        num_stages (int): How many stages the network has.
        stem (nn.Module): What comes before the stages.
        stages (nn.ModuleList): The stages.
        out_indices (tuple[int]): The stages whose output is returned, in
            rising order and without negative numbers.
        out_channels (int): Channels of the last stage.
    """

    num_stages: int
    out_channels: int

    # Abstract, since a network without stages is none.
    @abstractmethod
    def __init__(self,
                 in_channels: int,
                 out_indices: Union[int, Sequence[int]],
                 norm_cfg: Optional[dict] = None,
                 init_cfg: Optional[Union[dict, List[dict]]] = None):
        super().__init__(init_cfg)
        check_integer(self._setting('in_channels'), in_channels)
        self.out_indices = resolve_out_indices(
            self._setting('out_indices'), out_indices, self.num_stages)
        self.norm_cfg = norm_cfg
        self.stem = nn.Identity()
        self.stages = nn.ModuleList()

    def _setting(self, name: str) -> str:
        """The argument ``name`` as error messages call it."""
        return f'{name} of {type(self).__name__}'

    def build_norm(self, channels: int) -> nn.Module:
        """Build a norm layer of so many channels, or say what is wrong with
        ``norm_cfg``."""
        try:
            return build_norm_layer(self.norm_cfg, channels)[1]
        except (AssertionError, KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                f"{self._setting('norm_cfg')} must be the config of a norm "
                f"layer for {channels} channels, such as dict(type='BN'); "
                f'got {self.norm_cfg!r}') from error

    def forward(self, x: Tensor) -> Tuple[Tensor, ...]:
        """The maps ``(N, C, H', W')`` of the stages of ``out_indices``, in
        rising order, from images ``(N, in_channels, H, W)``."""
        x = self.stem(x)
        outs = []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i in self.out_indices:
                outs.append(x)
        return tuple(outs)

    def train(self, mode: bool = True) -> 'CifarBackbone':
        """Set the mode and return the module, as ``nn.Module`` does."""
        super().train(mode)
        return self
