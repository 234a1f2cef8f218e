import math
from typing import List, Optional, Sequence, Union

import torch
import torch.nn as nn
from torch import Tensor

from mcod_plugin.errors import (ConfigError, check_choice, check_integer,
                                check_number)
from mcod_plugin.registry import MODELS
from .cifar_backbone import INIT_CFG, CifarBackbone


class DenseLayer(nn.Sequential):
    """Modules whose output is appended to the channels of their input."""

    def forward(self, x: Tensor) -> Tensor:
        """A map ``(N, C, H, W)`` with the new channels behind its own."""
        return torch.cat((x, super().forward(x)), dim=1)


@MODELS.register_module()
class CifarDenseNet(CifarBackbone):
    """The small DenseNet for CIFAR, with three dense blocks.

    See `Densely Connected Convolutional Networks
    <https://arxiv.org/abs/1608.06993>`_. Every convolution but the first is
    preceded by norm and ReLU. A layer appends ``growth`` channels to its
    input, and between two blocks a transition halves the resolution. The
    network ends with norm and ReLU; its last map has the shape ``(N,
    out_channels, H / 4, W / 4)``.

    The defaults are DenseNet-BC-100-12, of 0.8 million parameters. The plain
    DenseNet-40-12 is ``depth=40, bottleneck=False, compression=1``.

    Args:
        depth (int): The number of layers with the classifier: 6n+4 with a
            bottleneck, 3n+4 without one, n >= 1. Defaults to 100.
        growth (int): Channels that each layer adds. Defaults to 12.
        bottleneck (bool): Whether a 1x1 convolution to ``4 * growth``
            channels comes before each 3x3 convolution. Defaults to True.
        compression (float): The share of the channels that a transition
            keeps, in (0, 1]. Defaults to 0.5.
        drop_rate (float): Dropout after every convolution but the first, in
            [0, 1). Defaults to 0.
        in_channels (int): Channels of the input. Defaults to 3.
        out_indices (int | Sequence[int]): Stages whose output is returned. A
            stage is a dense block with what follows it: the transition, or
            the last norm and ReLU. Defaults to ``(2, )``, the last stage.
        norm_cfg (dict): Config of the norm layers.
            Defaults to ``dict(type='BN')``.
        init_cfg (dict | list[dict], optional): Initialization config.
            Defaults to Kaiming normal by ``fan_out``.

    Attributes:
        out_channels (int): Channels of the last stage.

    Examples:
        >>> import torch
        >>> from mcod_plugin.registry import MODELS
        >>> net = MODELS.build(dict(type='mcod_plugin.CifarDenseNet'))
        >>> feats = net(torch.rand(1, 3, 32, 32))
        >>> feats[-1].shape
        torch.Size([1, 342, 8, 8])
    """

    num_stages = 3

    def __init__(self,
                 depth: int = 100,
                 growth: int = 12,
                 bottleneck: bool = True,
                 compression: float = 0.5,
                 drop_rate: float = 0,
                 in_channels: int = 3,
                 out_indices: Union[int, Sequence[int]] = (2, ),
                 norm_cfg: dict = dict(type='BN'),
                 init_cfg: Optional[Union[dict, List[dict]]] = INIT_CFG):
        super().__init__(in_channels, out_indices, norm_cfg, init_cfg)
        check_choice(self._setting('bottleneck'), bottleneck, (True, False))
        step = 6 if bottleneck else 3
        check_integer(self._setting('depth'), depth, minimum=step + 4)
        if (depth - 4) % step:
            raise ConfigError(f'{self._setting("depth")} must be {step}n+4 '
                              f'with bottleneck={bottleneck}; got {depth!r}')
        check_integer(self._setting('growth'), growth)
        check_number(
            self._setting('compression'), compression, 0, exclusive=True)
        if compression > 1:
            raise ConfigError(f'{self._setting("compression")} must be '
                              'greater than 0 and at most 1; '
                              f'got {compression!r}')
        check_number(self._setting('drop_rate'), drop_rate, 0)
        if drop_rate >= 1:
            raise ConfigError(f'{self._setting("drop_rate")} must be at least '
                              f'0 and less than 1; got {drop_rate!r}')
        self.drop_rate = drop_rate

        channels = 2 * growth if bottleneck else 16
        self.stem = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        for i in range(self.num_stages):
            stage = nn.Sequential()
            stage.add_module('block', nn.Sequential())
            for _ in range((depth - 4) // step):
                stage.block.append(
                    self._dense_layer(channels, growth, bottleneck))
                channels += growth
            if i == self.num_stages - 1:
                stage.add_module('norm', self._norm(channels))
            else:
                kept = math.floor(channels * compression)
                check_integer(
                    f'{self._setting("compression")} times the {channels} '
                    'channels of a dense block', kept)
                stage.add_module(
                    'transition',
                    nn.Sequential(*self._conv(channels, kept, 1),
                                  nn.AvgPool2d(2)))
                channels = kept
            self.stages.append(stage)
        self.out_channels = channels

    def _norm(self, channels: int) -> nn.Sequential:
        """Norm and ReLU."""
        return nn.Sequential(self.build_norm(channels), nn.ReLU(inplace=True))

    def _conv(self, in_channels: int, out_channels: int,
              kernel_size: int) -> List[nn.Module]:
        """Norm, ReLU, convolution and dropout."""
        return [
            *self._norm(in_channels),
            nn.Conv2d(
                in_channels,
                out_channels,
                kernel_size,
                padding=kernel_size // 2,
                bias=False),
            # Kept at rate 0 too, so that no parameter is renamed by it.
            nn.Dropout(self.drop_rate)
        ]

    def _dense_layer(self, channels: int, growth: int,
                     bottleneck: bool) -> DenseLayer:
        """The layer that appends ``growth`` channels."""
        if not bottleneck:
            return DenseLayer(*self._conv(channels, growth, 3))
        return DenseLayer(*self._conv(channels, 4 * growth, 1),
                          *self._conv(4 * growth, growth, 3))
