"""The size of the images that the networks of a config are made for."""
from typing import (Any, Iterable, Iterator, Mapping, Optional, Sequence,
                    Tuple, Union)

import torch.nn as nn

from mcod_plugin.errors import ConfigError
from mcod_plugin.utils.dataset_layers import dataset_layers
from mcod_plugin.utils.part_name import part_name
from .timm_network import model_name

__all__ = [
    'parse_input_size', 'pipeline_input_size', 'data_input_size',
    'network_input_size', 'guess_input_size'
]

# The transforms that fix the size of an image, and the setting that tells it.
SIZING_TRANSFORMS = {
    'RandomCrop': 'crop_size',
    'CenterCrop': 'crop_size',
    'RandomResizedCrop': 'scale',
    'EfficientNetRandomCrop': 'scale',
    'EfficientNetCenterCrop': 'crop_size',
    'Resize': 'scale',
}
# The toolbox's wrappers of timm's networks.
TIMM_TYPES = ('TIMMBackbone', 'TimmClassifier')
# These write a pair as (width, height), the others as (height, width).
WIDTH_FIRST = ('CenterCrop', 'Resize')


def parse_input_size(setting: str, value: Any) -> Tuple[int, int]:
    """Height and width from an ``input_size``.

    Args:
        setting (str): The setting's name, for the error message.
        value (int | Sequence[int]): One side of a square, or (height, width).

    Returns:
        tuple[int, int]: Height and width in pixels.

    Raises:
        ConfigError: If it is neither.
    """
    sides = value if isinstance(value, (tuple, list)) else (value, value)
    if len(sides) != 2 or not all(
            type(side) is int and side > 0 for side in sides):
        raise ConfigError(f'{setting} must be a positive integer or a pair '
                          f'(height, width) of them; got {value!r}')
    return tuple(sides)


def pipeline_input_size(
        pipeline: Sequence[Mapping]) -> Optional[Union[int, Sequence[int]]]:
    """The size of the images that leave a data pipeline.

    Args:
        pipeline (Sequence[dict]): Configs of its transforms.

    Returns:
        int | Sequence[int] | None: The size as an ``input_size``; None if no
        transform fixes it.
    """
    size = None
    for transform in pipeline:
        name = part_name(transform)
        found = transform.get(SIZING_TRANSFORMS.get(name))
        if isinstance(found, (tuple, list)):
            size = tuple(reversed(found) if name in WIDTH_FIRST else found)
        elif isinstance(found, int):
            size = found
    return size


def data_input_size(
        loaders: Iterable[Any]) -> Optional[Union[int, Sequence[int]]]:
    """The size of the images of some data loaders.

    Args:
        loaders (Iterable[dict | DataLoader | None]): Their configs; one that
            is built already does not tell.

    Returns:
        int | Sequence[int] | None: The size as an ``input_size``, of the first
        loader whose pipeline fixes it; None if none does.
    """
    for loader in loaders:
        if isinstance(loader, dict):
            for dataset in dataset_layers(loader.get('dataset')):
                size = pipeline_input_size(dataset.get('pipeline') or ())
                if size is not None:
                    return size
    return None


def network_input_size(branch: Any) -> Optional[Union[int, Sequence[int]]]:
    """The size of the images that a network itself is made for.

    Args:
        branch (dict | nn.Module): A classifier or its config.

    Returns:
        int | Sequence[int] | None: The size as an ``input_size``: ``img_size``
        of the network, else that of a network of timm's which takes no other.
        None if it does not tell.
    """
    if isinstance(branch, Mapping):
        network = branch.get('backbone', branch)
        if isinstance(network, Mapping):
            if network.get('img_size') is not None:
                return network['img_size']
            if part_name(network) not in TIMM_TYPES or not network.get(
                    'strict_img_size', not network.get('dynamic_img_size')):
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
    """The size to assume when neither the model nor the data tell it.

    Args:
        branches (dict[str, dict | nn.Module]): The branches by name, or their
            configs.

    Returns:
        int | Sequence[int]: The size as an ``input_size``: what the first of
        the networks says that are made for one size, unless its branch has an
        ``input_size`` of its own; else 32 if a CIFAR-sized network is among
        them, else 224.
    """
    for branch in branches.values():
        if not isinstance(branch, Mapping) or 'input_size' not in branch:
            size = network_input_size(branch)
            if size is not None:
                return size
    return 32 if any('cifar' in name.lower()
                     for name in _types(branches)) else 224


def _types(value: Any) -> Iterator[str]:
    """All ``type`` names within a config."""
    if isinstance(value, Mapping):
        if isinstance(value.get('type'), str):
            yield value['type']
        for child in value.values():
            yield from _types(child)
    elif isinstance(value, (tuple, list)):
        for child in value:
            yield from _types(child)
