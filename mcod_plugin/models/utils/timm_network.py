"""The network of timm that a branch's config names."""
from contextlib import contextmanager
from functools import partial
from typing import Any, Dict, Iterator, List, Mapping, Optional

import torch
import torch.nn as nn
from mmpretrain.models.backbones import TIMMBackbone
from mmpretrain.models.classifiers import TimmClassifier
from torch import Tensor

from mcod_plugin.config.parts import is_part
from mcod_plugin.config.pretrained import PRETRAINED_KEYS
from mcod_plugin.errors import ConfigError

__all__ = [
    'check_channels', 'check_pretrained', 'classifier_lines', 'is_buildable',
    'layers_after_pooling', 'model_name', 'network_settings',
    'recorded_features'
]

# Arguments of MMPretrain's wrappers that are none of timm's.
WRAPPER_KEYS = ('type', '_scope_', 'model_name', 'features_only',
                'out_indices', 'num_classes', 'in_channels', 'loss', 'with_cp',
                'train_cfg', 'init_cfg', 'data_preprocessor')


def model_name(settings: Mapping[str, Any]) -> str:
    """timm's own name of the network of a ``TIMMBackbone`` or
    ``TimmClassifier``, with the tag of its weights if there is one, and
    without where it is found."""
    name = str(settings.get('model_name'))
    return name.rpartition(':')[2].rpartition('/')[2]


def network_settings(settings: Mapping[str, Any]) -> Dict[str, Any]:
    """What ``timm.create_model`` is given besides the name and the classes."""
    found = {k: v for k, v in settings.items() if k not in WRAPPER_KEYS}
    if settings.get('in_channels', 3) != 3:
        found['in_chans'] = settings['in_channels']
    return found


def classifier_lines(name: str, backbone: Mapping[str, Any],
                     head: Mapping[str, Any]) -> str:
    """Two lines of a config: the ``TimmClassifier`` that has what a branch's
    ``TIMMBackbone`` leaves out."""
    settings = dict(
        model_name=backbone.get('model_name'),
        num_classes=head.get('num_classes'),
        **network_settings(backbone))
    if 'loss' in head:
        settings['loss'] = head['loss']
    listed = ', '.join(f'{key}={value!r}' for key, value in settings.items())
    return f"{name}=dict(type='TimmClassifier',\n    {listed})"


def check_channels(setting: str, cfg: Any) -> None:
    """Raise if a wrapper's number of channels goes by the other one's name:
    one is given what MMPretrain calls it, the other what timm does."""
    for kind, wrong, right in ((TIMMBackbone, 'in_chans', 'in_channels'),
                               (TimmClassifier, 'in_channels', 'in_chans')):
        if is_part(cfg, kind) and wrong in cfg:
            raise ConfigError(f'{setting}.{wrong} is no setting of '
                              f'{kind.__name__}; did you mean {right}?')


def check_pretrained(settings: Mapping[str, Any]) -> None:
    """Raise a RuntimeError unless timm's pretrained weights are complete, the
    classifier apart.

    For another number of classes, or for features only, timm loads the weights
    that there are, and does not tell what is missing. Only the network with
    the classifier that it was trained with is loaded strictly, so timm is
    asked for that first.
    """
    if settings.get('pretrained') is not True:
        return
    import timm
    try:
        # The cohort's random numbers are not used up.
        with torch.random.fork_rng(devices=[]):
            timm.create_model(settings['model_name'],
                              **network_settings(settings))
    except RuntimeError:
        raise
    except Exception:
        # Settings that MMPretrain's wrapper translates. Of any other mistake
        # the network itself will tell.
        pass


def is_buildable(settings: Mapping[str, Any]) -> bool:
    """Whether timm builds the network of a ``TIMMBackbone`` with its own
    classifier."""
    return any(_create(settings, device) for device in ('meta', 'cpu'))


@contextmanager
def recorded_features(backbone: nn.Module) -> Iterator[list]:
    """A list that gets what each call of a ``TIMMBackbone`` has before timm's
    own pooling and classifier; of any other module nothing."""
    found = []
    network = getattr(backbone, 'timm_model', None)
    original = getattr(network, 'forward_features', None)
    if original is None:
        yield found
        return

    def record(*args, **kwargs):
        features = original(*args, **kwargs)
        found.append(features)
        return features

    network.forward_features = record
    try:
        yield found
    finally:
        del network.forward_features


def layers_after_pooling(settings: Mapping[str, Any], features: Any,
                         images: Tensor) -> List[str]:
    """The layers, with their classes, by which timm's classifier is more than
    the pooled features of a ``TIMMBackbone`` and a linear layer; none if timm
    does not tell. ``features`` are :func:`recorded_features` of the images
    ``(N, C, H, W)``.

    timm is asked for the network once more, and what follows on the features
    is run twice: as it is, and as ``TIMMBackbone`` has it, without pooling and
    classifier. Layers with parameters that are given other shapes then, or are
    not called, stand behind the pooling. No weights are made and nothing is
    computed, as the tensors have shapes only.
    """
    for device in ('meta', 'cpu'):
        network = _create(settings, device)
        if network is None:
            continue
        try:
            return _layers_after_pooling(network, _zeroed(features, device),
                                         _zeroed(images, device))
        except Exception:
            # An operation that needs values, or a network that is built
            # otherwise than all that timm has.
            continue
    return []


def _create(settings: Mapping[str, Any], device: str) -> Optional[nn.Module]:
    """timm's network in eval mode; None if it cannot be built."""
    import timm
    given = {
        key: value
        for key, value in network_settings(settings).items()
        if key not in PRETRAINED_KEYS
    }
    try:
        # The cohort's random numbers are not used up.
        with torch.random.fork_rng(devices=[]), torch.device(device):
            return timm.create_model(
                model_name(settings), num_classes=2, **given).eval()
    except Exception:
        return None


def _zeroed(value: Any, device: str) -> Any:
    """Zeros in the place of tensors.

    A map of one pixel would have the same shape before and after the pooling,
    so it becomes larger.
    """
    if isinstance(value, Tensor):
        shape = value.shape
        if value.ndim == 4:
            shape = (len(value), *(max(side, 2) for side in shape[1:]))
        return torch.zeros(shape, dtype=value.dtype, device=device)
    if isinstance(value, dict):
        return {key: _zeroed(child, device) for key, child in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_zeroed(child, device) for child in value)
    return value


@torch.no_grad()
def _layers_after_pooling(network: nn.Module, features: Any,
                          images: Tensor) -> List[str]:
    modules = dict(network.named_modules())
    last = network.get_classifier()
    if isinstance(last, (tuple, list)):
        last = last[0]
    within = set(last.modules())
    # The network's own ``forward`` goes on from there.
    network.forward_features = lambda *args, **kwargs: features
    with images.device:
        whole = _given_shapes(network, images)
        network.reset_classifier(0, '')
        shorn = _given_shapes(network, images)
    # The branch has the last linear layer of the classifier, or of the first
    # if there are several. Some of timm's are convolutions.
    linear = [
        name for name in whole
        if modules[name] in within and isinstance(modules[name], (nn.Linear,
                                                                  nn.Conv2d))
    ][-1:]
    found = []
    for name, shapes in whole.items():
        part = any(name.startswith(f'{other}.') for other in found)
        if shorn.get(name) != shapes and name not in linear and not part:
            found.append(name)
    return [f'{name} ({type(modules[name]).__name__})' for name in found]


def _given_shapes(network: nn.Module, images: Tensor) -> Dict[str, list]:
    """Shapes of what the layers with parameters are given, by their names."""
    found, handles = {}, []

    def note(name, module, args):
        found.setdefault(name, []).append([
            tuple(value.shape) for value in args if isinstance(value, Tensor)
        ])

    for name, module in network.named_modules():
        if next(module.parameters(recurse=False), None) is not None:
            handles.append(
                module.register_forward_pre_hook(partial(note, name)))
    try:
        network(images)
    finally:
        for handle in handles:
            handle.remove()
    return found
