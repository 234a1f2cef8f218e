from typing import List, Optional, Sequence, Union

import torch.nn as nn

from mcod_plugin.errors import ConfigError, check_integer
from mcod_plugin.registry import MODELS
from .cifar_backbone import CifarBackbone

# Without norm layers the initial weights alone keep the scale of the signal.
# ``fan_in`` does so forward (arXiv:1502.01852); with ``fan_out`` it dies away,
# since the first layers have far more channels than their inputs.
INIT_CFG = dict(
    type='Kaiming', layer=['Conv2d'], mode='fan_in', nonlinearity='relu')


@MODELS.register_module()
class CifarAlexNet(CifarBackbone):
    """The AlexNet that the literature uses on CIFAR.

    Five convolutions with ReLU and without norm layers, of the widths in `One
    weird trick for parallelizing convolutional neural networks
    <https://arxiv.org/abs/1404.5997>`_, with 2x2 max pooling and one linear
    classifier. It has 2.5 million parameters with a head of 100 classes.

    The published CIFAR variant keeps the coarse ImageNet stem, an 11x11
    convolution of stride 4, so that its last map has the shape ``(N,
    4 * width, H / 32, W / 32)``, 1x1 for a 32x32 image. The other networks
    of this package have a 3x3 stem, and so has this one with
    ``stem_kernel=3, stem_stride=1``; its last map is then 4x4.

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
            Defaults to Kaiming normal by ``fan_in``.

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

    num_stages = 3

    def __init__(self,
                 width: int = 64,
                 stem_kernel: int = 11,
                 stem_stride: int = 4,
                 in_channels: int = 3,
                 out_indices: Union[int, Sequence[int]] = (2, ),
                 init_cfg: Optional[Union[dict, List[dict]]] = INIT_CFG):
        super().__init__(in_channels, out_indices, init_cfg=init_cfg)
        check_integer(self._setting('width'), width)
        check_integer(self._setting('stem_kernel'), stem_kernel)
        if stem_kernel % 2 == 0:
            raise ConfigError(f'{self._setting("stem_kernel")} must be an odd '
                              f'number; got {stem_kernel!r}')
        check_integer(self._setting('stem_stride'), stem_stride)

        # per stage: (channels / width, kernel size, stride) of its convs
        stages = (((1, stem_kernel, stem_stride), ), ((3, 5, 1), ),
                  ((6, 3, 1), (4, 3, 1), (4, 3, 1)))
        for convs in stages:
            layers = []
            for ratio, kernel, stride in convs:
                channels = width * ratio
                layers += [
                    nn.Conv2d(in_channels, channels, kernel, stride,
                              kernel // 2),
                    nn.ReLU(inplace=True)
                ]
                in_channels = channels
            self.stages.append(nn.Sequential(*layers, nn.MaxPool2d(2)))
        self.out_channels = channels
