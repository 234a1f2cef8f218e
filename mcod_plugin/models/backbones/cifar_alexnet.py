from typing import List, Optional, Sequence, Tuple, Union

import torch.nn as nn
from mmpretrain.models.backbones.base_backbone import BaseBackbone
from torch import Tensor

from mcod_plugin.errors import ConfigError
from mcod_plugin.registry import MODELS
from .cifar_resnet import check_integer, resolve_out_indices


@MODELS.register_module()
class CifarAlexNet(BaseBackbone):
    """The AlexNet that the literature uses on CIFAR.

    Five convolutions with ReLU and without norm layers, of the widths in `One
    weird trick for parallelizing convolutional neural networks
    <https://arxiv.org/abs/1404.5997>`_, with 2x2 max pooling and one linear
    classifier. It has 2.5 million parameters with a head of 100 classes.

    The published CIFAR variant keeps the coarse ImageNet stem, an 11x11
    convolution of stride 4, so that its last map is 1x1 for a 32x32 image.
    The other networks of this package have a 3x3 stem, and so has this one
    with ``stem_kernel=3, stem_stride=1``; its last map is then 4x4.

    Args:
        width (int): Channels of the first convolution. The others have 3, 6,
            4 and 4 times as many. Defaults to 64.
        stem_kernel (int): Kernel size of the first convolution, an odd
            number. It is padded by ``stem_kernel // 2``. Defaults to 11.
        stem_stride (int): Stride of the first convolution. Defaults to 4.
        in_channels (int): Channels of the input. Defaults to 3.
        out_indices (int | Sequence[int]): Stages whose output is returned.
            Each of the three stages ends with a pooling.
            Defaults to ``(2, )``, the last stage.
        init_cfg (dict | list[dict], optional): Initialization config.

    Attributes:
        out_channels (int): Channels of the last stage.

    Examples:
        >>> import torch
        >>> from mcod_plugin.registry import MODELS
        >>> net = MODELS.build(dict(type='mcod_plugin.CifarAlexNet'))
        >>> feats = net(torch.rand(1, 3, 32, 32))
        >>> feats[-1].shape
        torch.Size([1, 256, 1, 1])
    """

    def __init__(
        self,
        width: int = 64,
        stem_kernel: int = 11,
        stem_stride: int = 4,
        in_channels: int = 3,
        out_indices: Union[int, Sequence[int]] = (2, ),
        init_cfg: Optional[Union[dict, List[dict]]] = dict(
            type='Kaiming', layer=['Conv2d'])
    ):
        super().__init__(init_cfg)
        name = type(self).__name__
        check_integer(f'width of {name}', width)
        check_integer(f'stem_kernel of {name}', stem_kernel)
        if stem_kernel % 2 == 0:
            raise ConfigError(f'stem_kernel of {name} must be an odd number; '
                              f'got {stem_kernel!r}')
        check_integer(f'stem_stride of {name}', stem_stride)
        check_integer(f'in_channels of {name}', in_channels)
        self.out_indices = resolve_out_indices(f'out_indices of {name}',
                                               out_indices, 3)

        # per stage: (channels / width, kernel size, stride) of its convs
        stages = (((1, stem_kernel, stem_stride), ), ((3, 5, 1), ),
                  ((6, 3, 1), (4, 3, 1), (4, 3, 1)))
        self.stages = nn.ModuleList()
        for convs in stages:
            layers = []
            for ratio, kernel, stride in convs:
                layers += [
                    nn.Conv2d(
                        in_channels,
                        width * ratio,
                        kernel,
                        stride=stride,
                        padding=kernel // 2),
                    nn.ReLU(inplace=True)
                ]
                in_channels = width * ratio
            self.stages.append(nn.Sequential(*layers, nn.MaxPool2d(2)))
        self.out_channels = in_channels

    def forward(self, x: Tensor) -> Tuple[Tensor, ...]:
        """Compute the feature maps.

        Args:
            x (Tensor): Images of shape ``(N, in_channels, H, W)``.

        Returns:
            tuple[Tensor]: The stages of ``out_indices``, in rising order;
            the last stage has the shape ``(N, 4 * width, H / 32, W / 32)``,
            or ``H / 8`` and ``W / 8`` with a stem of stride 1.
        """
        outs = []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i in self.out_indices:
                outs.append(x)
        return tuple(outs)

    def train(self, mode: bool = True) -> 'CifarAlexNet':
        """Set the mode and return the module, as ``nn.Module`` does."""
        super().train(mode)
        return self
