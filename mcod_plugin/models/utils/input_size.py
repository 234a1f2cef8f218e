"""The size of the images that the networks of a config are made for."""
from typing import (Any, Iterable, Iterator, Mapping, Optional, Sequence,
                    Tuple, Union)

from mcod_plugin.errors import ConfigError
from mcod_plugin.utils.part_name import part_name

__all__ = [
    'parse_input_size', 'pipeline_input_size', 'data_input_size',
    'guess_input_size'
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
            dataset = loader.get('dataset', {})
            size = pipeline_input_size(dataset.get('pipeline', ()))
            if size is not None:
                return size
    return None


def guess_input_size(branches: Mapping[str, Any]) -> int:
    """The size to assume when neither the model nor the data tell it.

    Args:
        branches (dict[str, dict]): Configs of the branches by name.

    Returns:
        int: 32 if a CIFAR-sized network is among them, else 224.
    """
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
