from numbers import Integral
from typing import Any, List, Optional, Sequence, Tuple, Union

import torch.nn as nn
from mmcv.cnn import build_norm_layer
from mmpretrain.models.backbones.base_backbone import BaseBackbone
from mmpretrain.models.backbones.resnet import BasicBlock, ResLayer
from torch import Tensor

from mcod_plugin.errors import ConfigError
from mcod_plugin.registry import MODELS


def check_integer(setting: str, value: Any, minimum: int = 1) -> None:
    """Raise a ``ConfigError`` unless ``value`` is an integer that is large
    enough.

    Args:
        setting (str): The setting, as the user types it.
        value (Any): What was given.
        minimum (int): The smallest value allowed. Defaults to 1.
    """
    good = isinstance(value, Integral) and not isinstance(value, bool)
    if not good or value < minimum:
        raise ConfigError(f'{setting} must be an integer of at least '
                          f'{minimum}; got {value!r}')


def resolve_out_indices(setting: str, out_indices: Union[int, Sequence[int]],
                        num_stages: int) -> Tuple[int, ...]:
    """Turn ``out_indices`` into non-negative stage numbers in rising order.

    Args:
        setting (str): The setting, as the user types it.
        out_indices (int | Sequence[int]): What was given. Negative numbers
            count from the last stage.
        num_stages (int): The number of stages.

    Returns:
        tuple[int]: The stages whose output is returned.
    """
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


def build_norm(setting: str, norm_cfg: dict, channels: int) -> nn.Module:
    """Build a norm layer, or say what is wrong with its config.

    Args:
        setting (str): The setting, as the user types it.
        norm_cfg (dict): What was given.
        channels (int): The number of channels to normalise.

    Returns:
        nn.Module: The norm layer.
    """
    try:
        return build_norm_layer(norm_cfg, channels)[1]
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{setting} must be the config of a norm layer for {channels} "
            f"channels, such as dict(type='BN'); got {norm_cfg!r}") from error


@MODELS.register_module()
class CifarResNet(BaseBackbone):
    """The small ResNet for CIFAR, of 6n+2 layers.

    See section 4.2 of `Deep Residual Learning for Image Recognition
    <https://arxiv.org/abs/1512.03385>`_. A 3x3 convolution without pooling
    is followed by three stages of n basic blocks, and the second and third
    stage halve the resolution. Where the shape changes, the shortcut is a
    1x1 convolution with a norm layer (the paper's option B; its CIFAR
    experiments pad with zeros instead, which costs a few less parameters).

    Unlike ``mmpretrain.ResNet_CIFAR``, which is the ImageNet network of 11
    million parameters and more with a smaller stem, these networks have 0.27
    (``depth=20``) to 1.7 million (``depth=110``).

    Args:
        depth (int): The number of layers with the classifier, 6n+2 with
            n >= 1: 8, 14, 20, 26, 32, ... Defaults to 20.
        width (int): Channels of the first stage. The stages have ``width``,
            ``2 * width`` and ``4 * width`` channels. Defaults to 16.
        in_channels (int): Channels of the input. Defaults to 3.
        out_indices (int | Sequence[int]): Stages whose output is returned.
            Defaults to ``(2, )``, the last stage.
        norm_cfg (dict): Config of the norm layers.
            Defaults to ``dict(type='BN')``.
        init_cfg (dict | list[dict], optional): Initialization config.

    Attributes:
        out_channels (int): Channels of the last stage.

    Examples:
        >>> import torch
        >>> from mcod_plugin.registry import MODELS
        >>> net = MODELS.build(dict(type='mcod_plugin.CifarResNet', depth=32))
        >>> feats = net(torch.rand(1, 3, 32, 32))
        >>> feats[-1].shape
        torch.Size([1, 64, 8, 8])
    """

    def __init__(self,
                 depth: int = 20,
                 width: int = 16,
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
        check_integer(f'depth of {name}', depth, 8)
        if depth % 6 != 2:
            raise ConfigError(
                f'depth of {name} must be 6n+2 (8, 14, 20, 26, 32, 38, 44, '
                f'50, 56, ...); got {depth!r}')
        check_integer(f'width of {name}', width)
        check_integer(f'in_channels of {name}', in_channels)
        self.out_indices = resolve_out_indices(f'out_indices of {name}',
                                               out_indices, 3)

        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, padding=1, bias=False),
            build_norm(f'norm_cfg of {name}', norm_cfg, width),
            nn.ReLU(inplace=True))
        self.stages = nn.ModuleList()
        channels = width
        for i in range(3):
            self.stages.append(
                ResLayer(
                    BasicBlock,
                    num_blocks=(depth - 2) // 6,
                    in_channels=channels,
                    out_channels=width * 2**i,
                    stride=1 if i == 0 else 2,
                    norm_cfg=norm_cfg))
            channels = width * 2**i
        self.out_channels = channels

    def forward(self, x: Tensor) -> Tuple[Tensor, ...]:
        """Compute the feature maps.

        Args:
            x (Tensor): Images of shape ``(N, in_channels, H, W)``.

        Returns:
            tuple[Tensor]: The stages of ``out_indices``, in rising order;
            the last stage has the shape ``(N, 4 * width, H / 4, W / 4)``.
        """
        x = self.stem(x)
        outs = []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i in self.out_indices:
                outs.append(x)
        return tuple(outs)

    def train(self, mode: bool = True) -> 'CifarResNet':
        """Set the mode and return the module, as ``nn.Module`` does."""
        super().train(mode)
        return self
