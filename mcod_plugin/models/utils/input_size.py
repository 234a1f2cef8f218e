"""The size of the images that networks are made for."""
from typing import Any, Mapping, Optional, Sequence, Union

import torch.nn as nn
from mmpretrain.models import TIMMBackbone, TimmClassifier

from mcod_plugin.config.parts import is_part, walk
from .timm_network import model_name

__all__ = ['guess_input_size', 'network_input_size']


def network_input_size(branch: Any) -> Optional[Union[int, Sequence[int]]]:
    """The size of the images that a classifier's network itself is made for,
    as an ``input_size``: its ``img_size``, else that of a network of timm's
    which takes no other. None if it does not tell."""
    if isinstance(branch, Mapping):
        network = branch.get('backbone', branch)
        if isinstance(network, Mapping):
            if network.get('img_size') is not None:
                return network['img_size']
            fixed = network.get('strict_img_size',
                                not network.get('dynamic_img_size'))
            if not fixed or not is_part(network,
                                        (TIMMBackbone, TimmClassifier)):
                return None
            import timm
            try:
                return _fixed_size(
                    timm.get_pretrained_cfg(model_name(network)))
            except RuntimeError:
                # There is no such network; whoever builds it will say so.
                return None
        branch = network
    if not isinstance(branch, nn.Module):
        return None
    modules = list(branch.modules())
    sizes = [getattr(module, 'img_size', None) for module in modules]
    sizes += [
        _fixed_size(getattr(module, 'pretrained_cfg', None))
        for module in modules
    ]
    return next(
        (size for size in sizes if isinstance(size, (int, tuple, list))), None)


def _fixed_size(cfg: Any) -> Optional[Sequence[int]]:
    """The size that timm has a network for, if it takes no other."""
    cfg = cfg if isinstance(cfg, Mapping) else getattr(cfg, '__dict__', {})
    return cfg['input_size'][1:] if cfg.get('fixed_input_size') else None


def guess_input_size(branches: Mapping[str, Any]) -> Union[int, Sequence[int]]:
    """The size, as an ``input_size``, to assume when neither the model nor the
    data tell it: what the first of the networks says that are made for one
    size, unless its branch has an ``input_size`` of its own; else 32 if a
    CIFAR-sized network is among them, else 224."""
    for branch in branches.values():
        if not isinstance(branch, Mapping) or 'input_size' not in branch:
            size = network_input_size(branch)
            if size is not None:
                return size
    return 32 if any(
        isinstance(part, Mapping) and 'cifar' in str(part.get('type')).lower()
        for _, part in walk(branches)) else 224
