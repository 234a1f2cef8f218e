from typing import List, Optional, Sequence, Union

import torch.nn as nn

from mcod_plugin.errors import check_choice, check_integer
from mcod_plugin.registry import MODELS
from .cifar_backbone import INIT_CFG, CifarBackbone


@MODELS.register_module()
class CifarVGG(CifarBackbone):
    """VGG with batch norm, of any width.

    The convolutions of configurations A, B, D and E of `Very Deep
    Convolutional Networks for Large-Scale Image Recognition
    <https://arxiv.org/abs/1409.1556>`_, each followed by a norm layer and
    ReLU: five stages of 3x3 convolutions that end with 2x2 max pooling. The
    images must be at least 32 pixels high and wide, and the last map has the
    shape ``(N, 8 * width, H / 32, W / 32)``. One linear classifier is meant
    to take the place of the three of the paper.

    The full width is better taken from timm, by ``dict(type='TIMMBackbone',
    model_name='vgg16_bn', features_only=True)``, or from MMPretrain, by
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
            Defaults to Kaiming normal by ``fan_out``.

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

    num_stages = 5

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
                 init_cfg: Optional[Union[dict, List[dict]]] = INIT_CFG):
        super().__init__(in_channels, out_indices, norm_cfg, init_cfg)
        check_choice(self._setting('depth'), depth, self.arch_settings)
        check_integer(self._setting('width'), width)

        for ratio, num_convs in zip((1, 2, 4, 8, 8),
                                    self.arch_settings[depth]):
            channels = width * ratio
            layers = []
            for _ in range(num_convs):
                layers += [
                    nn.Conv2d(in_channels, channels, 3, padding=1, bias=False),
                    self.build_norm(channels),
                    nn.ReLU(inplace=True)
                ]
                in_channels = channels
            self.stages.append(nn.Sequential(*layers, nn.MaxPool2d(2)))
        self.out_channels = channels
