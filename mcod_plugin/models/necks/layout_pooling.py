from typing import Tuple

import torch.nn as nn
from torch import Tensor

from mcod_plugin.errors import check_choice, check_integer
from mcod_plugin.registry import MODELS

POOLINGS = {
    'NHWC': lambda feature: feature.mean((1, 2)),
    'tokens': lambda feature: feature.mean(1),
    'class_token': lambda feature: feature[:, 0],
}


@MODELS.register_module()
class LayoutPooling(nn.Module):
    """Pool features that are not laid out as ``(N, C, H, W)``.

    For maps of that layout MMPretrain has ``GlobalAveragePooling``, which
    takes others as well and averages over the wrong axes.

    Args:
        layout (str): How the last feature is laid out:

            - ``'NHWC'``: a map ``(N, H, W, C)``, pooled by its mean.
            - ``'tokens'``: tokens ``(N, L, C)``, pooled by their mean.
            - ``'class_token'``: tokens ``(N, L, C)``, the first of which is
              kept.
        num_prefix_tokens (int): Leading tokens that the mean of ``'tokens'``
            leaves out. Defaults to 0.

    Raises:
        ConfigError: If ``layout`` is none of them, or the number of tokens
            to leave out is not a natural number.
    """

    def __init__(self, layout: str, num_prefix_tokens: int = 0) -> None:
        super().__init__()
        check_choice('neck.layout', layout, POOLINGS)
        check_integer('neck.num_prefix_tokens', num_prefix_tokens, 0)
        self.layout = layout
        self.num_prefix_tokens = num_prefix_tokens

    def forward(self, feats: Tuple[Tensor, ...]) -> Tuple[Tensor]:
        """The last of the backbone's features, pooled to ``(N, C)``."""
        feature = feats[-1]
        if self.layout == 'tokens':
            feature = feature[:, self.num_prefix_tokens:]
        return (POOLINGS[self.layout](feature), )

    def extra_repr(self) -> str:
        return (f'layout={self.layout!r}, '
                f'num_prefix_tokens={self.num_prefix_tokens}')
