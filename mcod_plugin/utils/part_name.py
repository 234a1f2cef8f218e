from typing import Any

__all__ = ['part_name']


def part_name(part: dict, key: str = 'type') -> str:
    """The name of what a config builds, without the prefix of its scope.

    Args:
        part (dict): The config.
        key (str): The setting that tells it. Defaults to ``'type'``.

    Returns:
        str: Such as ``'SGD'``; empty if the config does not tell.
    """
    kind: Any = part.get(key) or ''
    return getattr(kind, '__name__', str(kind)).rpartition('.')[2]
