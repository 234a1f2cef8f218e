"""The size of the images that a config's data pipelines give."""
from typing import Any, Iterable, Mapping, Optional, Sequence, Tuple, Union

from mmcv.transforms import CenterCrop, Resize
from mmpretrain.datasets import (EfficientNetCenterCrop,
                                 EfficientNetRandomCrop, RandomCrop,
                                 RandomResizedCrop)

from mcod_plugin.errors import ConfigError
from .data import dataset_layers, view_pipelines
from .parts import is_part

__all__ = ['data_input_size', 'parse_input_size', 'pipeline_input_size']

# The transforms that fix the size of an image, and the setting that tells it.
SIZING_TRANSFORMS = {
    RandomCrop: 'crop_size',
    CenterCrop: 'crop_size',
    RandomResizedCrop: 'scale',
    EfficientNetRandomCrop: 'scale',
    EfficientNetCenterCrop: 'crop_size',
    Resize: 'scale',
}
# These write a pair as (width, height), the others as (height, width).
WIDTH_FIRST = (CenterCrop, Resize)


def parse_input_size(setting: str, value: Any) -> Tuple[int, int]:
    """Height and width in pixels from an ``input_size``: one side of a square,
    or (height, width)."""
    sides = value if isinstance(value, (tuple, list)) else (value, value)
    if len(sides) != 2 or not all(
            type(side) is int and side > 0 for side in sides):
        raise ConfigError(f'{setting} must be a positive integer or a pair '
                          f'(height, width) of them; got {value!r}')
    return tuple(sides)


def pipeline_input_size(
        pipeline: Sequence[Mapping]) -> Optional[Union[int, Sequence[int]]]:
    """The size of the images that leave a data pipeline, as an ``input_size``;
    None if no transform fixes it, or views of branches differ in it."""
    views = list(map(pipeline_input_size, view_pipelines(pipeline).values()))
    if views:
        return views[0] if all(size == views[0] for size in views) else None
    size = None
    for transform in pipeline:
        for kind, key in SIZING_TRANSFORMS.items():
            found = transform.get(key) if is_part(transform, kind) else None
            if isinstance(found, (tuple, list)):
                size = tuple(reversed(found) if kind in WIDTH_FIRST else found)
            elif isinstance(found, int):
                size = found
    return size


def data_input_size(
        loaders: Iterable[Any]) -> Optional[Union[int, Sequence[int]]]:
    """The size of the images, as an ``input_size``, of the first of some data
    loaders whose pipeline fixes it; None if none does. One that is built
    already does not tell."""
    for loader in loaders:
        if isinstance(loader, dict):
            for dataset in dataset_layers(loader.get('dataset')):
                size = pipeline_input_size(dataset.get('pipeline') or ())
                if size is not None:
                    return size
    return None
