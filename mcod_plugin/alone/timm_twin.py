"""The network of timm that a branch is."""
import warnings
from typing import Any, Dict, NamedTuple, Optional, Tuple

import torch
import torch.nn as nn
from mmpretrain.models import TIMMBackbone, TimmClassifier
from mmpretrain.models.heads import LinearClsHead, MultiLabelLinearClsHead
from torch import Tensor

from mcod_plugin.models.utils.timm_network import (model_name,
                                                   network_settings)

__all__ = ['TimmTwin', 'timm_twin']

# Those that are a linear layer, as timm's.
HEADS = (LinearClsHead, MultiLabelLinearClsHead)


class TimmTwin(NamedTuple):
    """A network of timm that gives the logits of a branch.

    Attributes:
        architecture (str): Its name in timm.
        model_args (dict): Further arguments of ``timm.create_model``.
        network (nn.Module): The network, with the weights of the branch.
    """

    architecture: str
    model_args: Dict[str, Any]
    network: nn.Module


def timm_twin(cfg: dict, classifier: nn.Module, num_classes: int,
              shape: Tuple[int, ...]) -> Optional[TimmTwin]:
    """Find the network of timm that gives the same logits as a branch, which
    is in eval mode; None if there is none.

    A ``TimmClassifier`` is one. A ``TIMMBackbone`` with a linear head is one
    if timm pools and classifies its features as the branch does, which is
    found out by comparing logits of images of the shape ``(N, C, H, W)``. The
    config is that of the branch as it stands alone.
    """
    if isinstance(classifier, TimmClassifier):
        settings, state = cfg, classifier.model.state_dict()
    elif (isinstance(getattr(classifier, 'backbone', None), TIMMBackbone)
          and type(classifier.head) in HEADS):
        settings = cfg['backbone']
        state = classifier.backbone.timm_model.state_dict()
    else:
        return None
    import timm
    architecture = model_name(settings).partition('.')[0]
    model_args = network_settings(settings)
    if shape[1] != 3:
        model_args.setdefault('in_chans', shape[1])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            network = timm.create_model(
                architecture, num_classes=num_classes, **model_args).eval()
        if not isinstance(classifier, TimmClassifier):
            state = {**state, **_last_layer(network, classifier.head.fc)}
        network.load_state_dict(state)
        same = _same_logits(network, classifier, shape)
    except Exception:
        # What timm does not know, or weights that are not its own: it is
        # another network.
        return None
    return TimmTwin(architecture, model_args, network) if same else None


def _last_layer(network: nn.Module, linear: nn.Linear) -> Dict[str, Tensor]:
    """The weights of a linear layer by the names of a network's last one."""
    last = network.get_classifier()
    name = next(name for name, module in network.named_modules()
                if module is last)
    return {
        f'{name}.weight': linear.weight.detach().view_as(last.weight),
        f'{name}.bias': linear.bias.detach()
    }


def _same_logits(network: nn.Module, classifier: nn.Module,
                 shape: Tuple[int, ...]) -> bool:
    """Whether two networks agree, on images of twice the size as well: a last
    map of one pixel is the same however it is pooled."""
    number, channels, height, width = shape
    larger = (number, channels, 2 * height, 2 * width)
    try:
        _logits(classifier, larger)
    except Exception:
        # Many transformers are for one size only.
        sizes = [shape]
    else:
        sizes = [shape, larger]
    for size in sizes:
        wanted = _logits(classifier, size)
        allowed = 1e-5 * max(1., float(wanted.abs().max()))
        if not (_logits(network, size) - wanted).abs().max() <= allowed:
            return False
    return True


@torch.no_grad()
def _logits(network: nn.Module, shape: Tuple[int, ...]) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return network(torch.randn(shape, generator=generator))
