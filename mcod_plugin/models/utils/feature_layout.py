"""How the features of a backbone are laid out."""
from typing import Any, NamedTuple, Optional

import torch.nn as nn
from mmpretrain.models.backbones import EfficientFormer, MlpMixer
from torch import Tensor

__all__ = ['FeatureLayout', 'feature_layout']


class FeatureLayout(NamedTuple):
    """The layout of a feature and its number of channels.

    Attributes:
        name (str): ``'NCHW'``, ``'NHWC'``, ``'NCL'``, ``'tokens'`` ``(N, L,
            C)``, ``'class_token'`` (tokens, the first of which stands for the
            image) or ``'flat'`` ``(N, C)``.
        channels (int): The size of C.
        num_prefix_tokens (int): Leading tokens that are no part of the image,
            if the name is ``'tokens'``.
    """

    name: str
    channels: int
    num_prefix_tokens: int = 0


def feature_layout(backbone: nn.Module,
                   feature: Any) -> Optional[FeatureLayout]:
    """The layout of the last of a backbone's features; None if that is not one
    tensor of 2 to 4 dimensions, as with networks that give a list of tokens to
    a head of their own."""
    if not isinstance(feature, Tensor):
        return None
    if feature.ndim == 2:
        return FeatureLayout('flat', feature.shape[1])
    if feature.ndim == 3:
        return _token_layout(backbone, feature)
    if feature.ndim == 4:
        if _is_channels_last(backbone, feature):
            return FeatureLayout('NHWC', feature.shape[3])
        return FeatureLayout('NCHW', feature.shape[1])
    return None


def _token_layout(backbone: nn.Module, feature: Tensor) -> FeatureLayout:
    if isinstance(backbone, (EfficientFormer, MlpMixer)):
        return FeatureLayout('NCL', feature.shape[1])
    network = getattr(backbone, 'timm_model', backbone)
    if getattr(network, 'cls_token', None) is not None:
        # timm norms the pooled feature of the networks that average.
        if isinstance(getattr(network, 'fc_norm', None),
                      (nn.Identity, type(None))):
            return FeatureLayout('class_token', feature.shape[2])
    return FeatureLayout('tokens', feature.shape[2],
                         getattr(network, 'num_prefix_tokens', 0))


def _is_channels_last(backbone: nn.Module, feature: Tensor) -> bool:
    """Whether a 4-D feature is ``(N, H, W, C)``."""
    # A network that speaks of its output's format is timm's. Its feature
    # extractors give maps in the format that they name, too.
    named = getattr(getattr(backbone, 'timm_model', backbone), 'output_fmt',
                    None)
    if named is not None:
        return str(getattr(named, 'value', named)) == 'NHWC'
    _, first, second, third = feature.shape
    return first == second != third
