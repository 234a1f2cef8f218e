"""Teachers and distillation losses, from a config or from code."""
from functools import partial
from typing import Any, Type

import torch.nn as nn
from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS

from mcod_plugin.errors import ConfigError
from mcod_plugin.registry import MODELS

__all__ = ['adapt', 'build_part']

# What is left to those who write a part.
CALLS = ('ensemble', 'forward')
# Who writes a part registers it with either of these.
REGISTRIES = dict(mcod_plugin=MODELS, mmpretrain=MMPRETRAIN_MODELS)


def build_part(setting: str, part: Any, base: Type[nn.Module]) -> nn.Module:
    """Build a teacher or a distillation loss from its config, or take one that
    is built, and have it be of the base class, see :func:`adapt`. The ``type``
    is found in the registry of this package and in MMPretrain's, under the
    scope of either and without one."""
    if not isinstance(part, (dict, nn.Module)):
        kind = setting.rpartition('.')[2].replace('distill', 'loss')
        raise ConfigError(f'{setting} must be the config of a {kind} (a '
                          f'dict); got {part!r}')
    if isinstance(part, dict):
        part = MODELS.build(_with_class(part))
    return adapt(part, base)


def _with_class(cfg: dict) -> dict:
    """A config whose ``type`` is a class, if it is one that MMEngine would
    not find: it looks in the current scope alone."""
    kind = cfg.get('type')
    if not isinstance(kind, str):
        return cfg
    scope, _, name = kind.rpartition('.')
    if scope not in ('', *REGISTRIES):
        return cfg
    with MODELS.switch_scope_and_registry(cfg.get('_scope_')) as current:
        # A file of that name is no part.
        if callable(current.get(kind)):
            return cfg
    for registry in REGISTRIES.values():
        found = registry.get(name)
        if callable(found):
            return type(cfg)(cfg, type=found)
    return cfg


def adapt(module: nn.Module, base: Type[nn.Module]) -> nn.Module:
    """Give a module with the calls of :class:`BaseTeacher` or
    :class:`BaseKDLoss` what it lacks of that base class, if it is not derived
    from it: attributes with their defaults, and methods such as ``setup`` that
    do nothing.

    It stays the same object, so that its class, its attributes and its keys in
    a checkpoint are the user's.
    """
    if isinstance(module, base):
        return module
    for name, value in vars(base).items():
        if name.startswith('_') or name in CALLS or hasattr(module, name):
            continue
        # What a base class does of itself needs no self.
        setattr(module, name,
                partial(value, None) if callable(value) else value)
    return module
