from typing import List, Optional, Sequence, Tuple, Union

import torch.nn as nn
from mmpretrain.models.backbones.base_backbone import BaseBackbone
from torch import Tensor

from mcod_plugin.errors import ConfigError
from mcod_plugin.registry import MODELS
from .cifar_resnet import build_norm, check_integer, resolve_out_indices


@MODELS.register_module()
class CifarVGG(BaseBackbone):
    """VGG with batch norm, of any width.

    The convolutions of configurations A, B, D and E of `Very Deep
    Convolutional Networks for Large-Scale Image Recognition
    <https://arxiv.org/abs/1409.1556>`_, each followed by a norm layer and
    ReLU: five stages of 3x3 convolutions that end with 2x2 max pooling. One
    linear classifier is meant to take the place of the three of the paper.

    The full width is better taken from timm, by ``dict(type='TIMMBackbone',
    model_name='vgg16_bn', features_only=True)``, or from the toolbox, by
    ``dict(type='VGG', depth=16, norm_cfg=dict(type='BN'))``. Those have no
    setting for the width, and narrow networks are what this one is for. With
    ``width=64`` and a head of 100 classes it has 15 (``depth=16``) or 20
    million parameters (``depth=19``).

    Args:
        depth (int): The number of layers in the paper, which counts three
            linear ones: 11, 13, 16 or 19. Defaults to 16.
        width (int): Channels of the first stage. The others have 2, 4, 8 and
            8 times as many. Defaults to 64.
        in_channels (int): Channels of the input. Defaults to 3.
        out_indices (int | Sequence[int]): Stages whose output is returned.
            Defaults to ``(4, )``, the last stage.
        norm_cfg (dict): Config of the norm layers.
            Defaults to ``dict(type='BN')``.
        init_cfg (dict | list[dict], optional): Initialization config.

    Attributes:
        out_channels (int): Channels of the last stage.

    Examples:
        >>> import torch
        >>> from mcod_plugin.registry import MODELS
        >>> net = MODELS.build(
        ...     dict(type='mcod_plugin.CifarVGG', depth=11, width=16))
        >>> feats = net(torch.rand(1, 3, 32, 32))
        >>> feats[-1].shape
        torch.Size([1, 128, 1, 1])
    """

    # convolutions in each stage
    arch_settings = {
        11: (1, 1, 2, 2, 2),
        13: (2, 2, 2, 2, 2),
        16: (2, 2, 3, 3, 3),
        19: (2, 2, 4, 4, 4)
    }

    def __init__(self,
                 depth: int = 16,
                 width: int = 64,
                 in_channels: int = 3,
                 out_indices: Union[int, Sequence[int]] = (4, ),
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
        depths = list(self.arch_settings)
        if depth not in depths:
            raise ConfigError(f'depth of {name} must be one of '
                              f'{", ".join(map(str, depths))}; got {depth!r}')
        check_integer(f'width of {name}', width)
        check_integer(f'in_channels of {name}', in_channels)
        self.out_indices = resolve_out_indices(f'out_indices of {name}',
                                               out_indices, 5)

        self.stages = nn.ModuleList()
        for ratio, num_convs in zip((1, 2, 4, 8, 8),
                                    self.arch_settings[depth]):
            layers = []
            for _ in range(num_convs):
                layers += [
                    nn.Conv2d(
                        in_channels, width * ratio, 3, padding=1, bias=False),
                    build_norm(f'norm_cfg of {name}', norm_cfg, width * ratio),
                    nn.ReLU(inplace=True)
                ]
                in_channels = width * ratio
            self.stages.append(nn.Sequential(*layers, nn.MaxPool2d(2)))
        self.out_channels = in_channels

    def forward(self, x: Tensor) -> Tuple[Tensor, ...]:
        """Compute the feature maps.

        Args:
            x (Tensor): Images of shape ``(N, in_channels, H, W)``, at least
                32 pixels high and wide.

        Returns:
            tuple[Tensor]: The stages of ``out_indices``, in rising order;
            the last stage has the shape ``(N, 8 * width, H / 32, W / 32)``.
        """
        outs = []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i in self.out_indices:
                outs.append(x)
        return tuple(outs)

    def train(self, mode: bool = True) -> 'CifarVGG':
        """Set the mode and return the module, as ``nn.Module`` does."""
        super().train(mode)
        return self
