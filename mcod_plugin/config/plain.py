"""Configs of plain values, as a config file holds them."""
import inspect
from typing import Any

from mcod_plugin.errors import ConfigError

__all__ = ['plain']


def plain(setting: str, value: Any) -> Any:
    """A copy of a config in Python's own containers and values, nothing else.
    A class is told by the name that it is registered under."""
    if isinstance(value, dict):
        return {
            str(key): plain(f'{setting}.{key}', child)
            for key, child in value.items()
        }
    if isinstance(value, (list, tuple)):
        items = [
            plain(f'{setting}.{index}', child)
            for index, child in enumerate(value)
        ]
        return tuple(items) if isinstance(value, tuple) else items
    if inspect.isclass(value):
        package = value.__module__.partition('.')[0]
        if package == 'mmpretrain':
            return value.__name__
        if package == 'mcod_plugin':
            return f'mcod_plugin.{value.__name__}'
        return f'{value.__module__}.{value.__qualname__}'
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ConfigError(f'{setting} cannot be written into a config: it must be '
                      'made of dicts, lists, names and numbers; got a '
                      f'{type(value).__name__}')
