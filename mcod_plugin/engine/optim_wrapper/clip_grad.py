"""Clipping of gradients, by PyTorch."""
import inspect
import math
from typing import Any, List, Optional

import torch.nn as nn
from torch import Tensor

from mcod_plugin.errors import (ConfigError, check_choice, check_number,
                                nearest)

__all__ = ['check_clip_grad', 'clip_grad', 'clipped_together']

# What clips, and the setting that it cannot do without.
KINDS = dict(
    norm=(nn.utils.clip_grad_norm_, 'max_norm'),
    value=(nn.utils.clip_grad_value_, 'clip_value'))


def check_clip_grad(setting: str, cfg: Any) -> None:
    """Raise unless gradients can be clipped as a config says: by its ``type``,
    which is ``'norm'`` unless it says ``'value'``, and the arguments of
    :func:`torch.nn.utils.clip_grad_norm_` or
    :func:`torch.nn.utils.clip_grad_value_`."""
    if not isinstance(cfg, dict):
        raise ConfigError(f'{setting} must be a dict such as '
                          f'dict(max_norm=1.0); got {cfg!r}')
    kind = cfg.get('type', 'norm')
    check_choice(f'{setting}.type', kind, KINDS)
    clip, limit = KINDS[kind]
    allowed = list(inspect.signature(clip).parameters)[1:]
    for key in cfg:
        if key not in ('type', '_scope_', *allowed):
            known = nearest(key, allowed) or f'it takes {", ".join(allowed)}'
            raise ConfigError(f'{setting}.{key} is no setting of '
                              f'{clip.__name__}; {known}')
    if limit not in cfg:
        raise ConfigError(f'{setting}.{limit} must be set; got {dict(cfg)!r}')
    # A norm that may be of any size is only logged.
    if cfg[limit] != math.inf:
        check_number(f'{setting}.{limit}', cfg[limit], 0, exclusive=True)


def clipped_together(cfg: Optional[dict], model: nn.Module) -> List[str]:
    """The branches of a model that the ``clip_grad`` of the optimizer wrapper
    clips by the norm over all of them."""
    if not cfg or cfg.get('type', 'norm') != 'norm':
        return []
    return [
        name
        for name, settings in getattr(model, 'branch_settings', {}).items()
        if not settings.frozen and settings.clip_grad is None
    ]


def clip_grad(parameters: List[nn.Parameter],
              type: str = 'norm',
              _scope_: Optional[str] = None,
              **kwargs) -> Optional[Tensor]:
    """Clip the gradients of parameters, see :func:`check_clip_grad`: by
    ``'norm'``, the norm of all together is at most ``max_norm`` then, and
    returned is what it was before; or by ``'value'``, each number is at most
    ``clip_value``."""
    return KINDS[type][0](parameters, **kwargs)
