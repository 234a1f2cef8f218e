import math
from typing import List, Optional, Sequence, Tuple, Union

import torch
import torch.nn as nn
from mmpretrain.models.backbones.base_backbone import BaseBackbone
from torch import Tensor

from mcod_plugin.errors import ConfigError, check_number
from mcod_plugin.registry import MODELS
from .cifar_resnet import build_norm, check_integer, resolve_out_indices


@MODELS.register_module()
class CifarDenseNet(BaseBackbone):
    """The small DenseNet for CIFAR, with three dense blocks.

    See `Densely Connected Convolutional Networks
    <https://arxiv.org/abs/1608.06993>`_. Every convolution but the first is
    preceded by norm and ReLU. A layer appends ``growth`` channels to its
    input, and between two blocks a transition halves the resolution. The
    network ends with norm and ReLU.

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

    def __init__(self,
                 depth: int = 100,
                 growth: int = 12,
                 bottleneck: bool = True,
                 compression: float = 0.5,
                 drop_rate: float = 0,
                 in_channels: int = 3,
                 out_indices: Union[int, Sequence[int]] = (2, ),
                 norm_cfg: dict = dict(type='BN'),
                 init_cfg: Optional[Union[dict, List[dict]]] = [
                     dict(type='Kaiming', layer=['Conv2d']),
                     dict(
                         type='Constant',
                         val=1,
                         layer=['_BatchNorm', 'GroupNorm'])
                 ]):
        super().__init__(init_cfg)
        name = type(self).__name__
        if not isinstance(bottleneck, bool):
            raise ConfigError(f'bottleneck of {name} must be True or False; '
                              f'got {bottleneck!r}')
        step = 6 if bottleneck else 3
        check_integer(f'depth of {name}', depth, step + 4)
        if (depth - 4) % step:
            raise ConfigError(f'depth of {name} must be {step}n+4 with '
                              f'bottleneck={bottleneck}; got {depth!r}')
        check_integer(f'growth of {name}', growth)
        check_number(f'compression of {name}', compression, 0, exclusive=True)
        if compression > 1:
            raise ConfigError(f'compression of {name} must be greater than 0 '
                              f'and at most 1; got {compression!r}')
        check_number(f'drop_rate of {name}', drop_rate, 0)
        if drop_rate >= 1:
            raise ConfigError(f'drop_rate of {name} must be at least 0 and '
                              f'less than 1; got {drop_rate!r}')
        check_integer(f'in_channels of {name}', in_channels)
        self.out_indices = resolve_out_indices(f'out_indices of {name}',
                                               out_indices, 3)
        self.drop_rate = drop_rate
        self.norm_cfg = norm_cfg

        channels = 2 * growth if bottleneck else 16
        self.stem = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.blocks = nn.ModuleList()
        self.transitions = nn.ModuleList()
        for i in range(3):
            layers = nn.ModuleList()
            for _ in range((depth - 4) // step):
                layers.append(self._make_layer(channels, growth, bottleneck))
                channels += growth
            self.blocks.append(layers)
            if i == 2:
                self.transitions.append(self._make_norm(channels))
                break
            kept = math.floor(channels * compression)
            check_integer(
                f'compression of {name} times the {channels} channels of a '
                'dense block', kept)
            self.transitions.append(
                nn.Sequential(*self._make_conv(channels, kept, 1),
                              nn.AvgPool2d(2)))
            channels = kept
        self.out_channels = channels

    def _make_norm(self, channels: int) -> nn.Sequential:
        """Norm and ReLU."""
        setting = f'norm_cfg of {type(self).__name__}'
        return nn.Sequential(
            build_norm(setting, self.norm_cfg, channels),
            nn.ReLU(inplace=True))

    def _make_conv(self, in_channels: int, out_channels: int,
                   kernel_size: int) -> List[nn.Module]:
        """Norm, ReLU, convolution and dropout."""
        return [
            *self._make_norm(in_channels),
            nn.Conv2d(
                in_channels,
                out_channels,
                kernel_size,
                padding=kernel_size // 2,
                bias=False),
            # Kept at rate 0 too, so that no parameter is renamed by it.
            nn.Dropout(self.drop_rate)
        ]

    def _make_layer(self, in_channels: int, growth: int,
                    bottleneck: bool) -> nn.Sequential:
        """What computes the ``growth`` new channels."""
        if not bottleneck:
            return nn.Sequential(*self._make_conv(in_channels, growth, 3))
        return nn.Sequential(*self._make_conv(in_channels, 4 * growth, 1),
                             *self._make_conv(4 * growth, growth, 3))

    def forward(self, x: Tensor) -> Tuple[Tensor, ...]:
        """Compute the feature maps.

        Args:
            x (Tensor): Images of shape ``(N, in_channels, H, W)``.

        Returns:
            tuple[Tensor]: The stages of ``out_indices``, in rising order;
            the last stage has the shape ``(N, out_channels, H / 4, W / 4)``.
        """
        x = self.stem(x)
        outs = []
        for i, (block, transition) in enumerate(
                zip(self.blocks, self.transitions)):
            for layer in block:
                x = torch.cat((x, layer(x)), dim=1)
            x = transition(x)
            if i in self.out_indices:
                outs.append(x)
        return tuple(outs)

    def train(self, mode: bool = True) -> 'CifarDenseNet':
        """Set the mode and return the module, as ``nn.Module`` does."""
        super().train(mode)
        return self
