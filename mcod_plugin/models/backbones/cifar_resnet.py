from typing import List, Optional, Sequence, Union

import torch.nn as nn
from mmpretrain.models.backbones.resnet import BasicBlock, ResLayer

from mcod_plugin.errors import ConfigError, check_integer
from mcod_plugin.registry import MODELS
from .cifar_backbone import INIT_CFG, CifarBackbone


@MODELS.register_module()
class CifarResNet(CifarBackbone):
    """The small ResNet for CIFAR, of 6n+2 layers.

    See section 4.2 of `Deep Residual Learning for Image Recognition
    <https://arxiv.org/abs/1512.03385>`_. A 3x3 convolution without pooling
    is followed by three stages of n basic blocks, and the second and third
    stage halve the resolution, so that the last map has the shape ``(N,
    4 * width, H / 4, W / 4)``. Where the shape changes, the shortcut is a
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
            Defaults to Kaiming normal by ``fan_out``.

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

    num_stages = 3

    def __init__(self,
                 depth: int = 20,
                 width: int = 16,
                 in_channels: int = 3,
                 out_indices: Union[int, Sequence[int]] = (2, ),
                 norm_cfg: dict = dict(type='BN'),
                 init_cfg: Optional[Union[dict, List[dict]]] = INIT_CFG):
        super().__init__(in_channels, out_indices, norm_cfg, init_cfg)
        check_integer(self._setting('depth'), depth, minimum=8)
        if depth % 6 != 2:
            raise ConfigError(
                f'{self._setting("depth")} must be 6n+2 (8, 14, 20, 26, 32, '
                f'38, 44, 50, 56, ...); got {depth!r}')
        check_integer(self._setting('width'), width)

        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, padding=1, bias=False),
            self.build_norm(width), nn.ReLU(inplace=True))
        channels = width
        for i in range(self.num_stages):
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
