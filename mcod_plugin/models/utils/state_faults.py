"""What keeps a state dict from being that of a module."""
from typing import Any, Dict, Iterable, List, Mapping

from torch import Tensor

__all__ = ['state_faults']


def state_faults(wanted: Mapping[str, Any], given: Mapping[str,
                                                           Any]) -> List[str]:
    """Tell how a state dict differs from another in keys and shapes.

    Args:
        wanted (Mapping[str, Tensor]): The state dict of the module.
        given (Mapping[str, Tensor]): The state dict to load.

    Returns:
        list[str]: Phrases such as ``'lacks head (2 keys such as
        head.fc.weight)'``; none if it fits.
    """
    wanted = {key: _shape(value) for key, value in wanted.items()}
    given = {key: _shape(value) for key, value in given.items()}
    faults = []
    for what, keys in (('lacks', wanted.keys() - given.keys()),
                       ('adds', given.keys() - wanted.keys())):
        if keys:
            faults.append(f'{what} {_summary(keys)}')
    faults += [
        f'has {key} of shape {given[key]} instead of {wanted[key]}'
        for key in sorted(wanted.keys() & given.keys())
        if given[key] != wanted[key]
    ][:1]
    return faults


def _shape(value: Any) -> Any:
    return tuple(value.shape) if isinstance(value,
                                            Tensor) else type(value).__name__


def _summary(keys: Iterable[str]) -> str:
    """Keys by part, and by branch in a cohort, as ``branches.vgg (12 keys
    such as branches.vgg.backbone.conv)``."""
    groups: Dict[str, List[str]] = {}
    for key in sorted(keys):
        parts = key.split('.')
        group = '.'.join(parts[:2]) if parts[0] == 'branches' else parts[0]
        groups.setdefault(group, []).append(key)
    return ', '.join(f'{group} ({len(members)} keys such as {members[0]})'
                     for group, members in groups.items())
