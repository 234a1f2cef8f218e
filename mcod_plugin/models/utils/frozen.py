"""Branches that only teach."""
import re
from typing import Optional

import torch.nn as nn
from mmengine.model import PretrainedInit

from mcod_plugin.errors import ConfigError
from mcod_plugin.utils.checkpoint import read_checkpoint
from .state_faults import state_faults

__all__ = ['freeze', 'is_frozen', 'load_pretrained', 'take_pretrained']


def freeze(branch: nn.Module) -> None:
    """Take a branch out of training.

    An optimizer leaves parameters alone that have no gradient, weight decay
    included, and ``DistributedDataParallel`` does not wait for them.

    Args:
        branch (nn.Module): The classifier, which is changed.
    """
    branch.requires_grad_(False)
    branch.eval()


def is_frozen(branch: nn.Module) -> bool:
    """Whether none of a branch's parameters is trained.

    Args:
        branch (nn.Module): The classifier.

    Returns:
        bool: Whether it is so.
    """
    return not any(value.requires_grad for value in branch.parameters())


def take_pretrained(branch: nn.Module) -> Optional[dict]:
    """Take the checkpoint out of a branch's ``init_cfg``.

    MMEngine would execute what a file holds besides weights, and would only
    log that they do not fit.

    Args:
        branch (nn.Module): The classifier, whose ``init_cfg`` is changed.

    Returns:
        dict | None: The part of type ``'Pretrained'``, for
        :func:`load_pretrained`; None if there is none.
    """
    given = branch.init_cfg or []
    parts = [given] if isinstance(given, dict) else list(given)
    found = [
        part for part in parts
        if part.get('type') in ('Pretrained', PretrainedInit)
    ]
    if not found:
        return None
    branch.init_cfg = [part for part in parts if part not in found]
    return found[-1]


def load_pretrained(setting: str, cfg: dict, branch: nn.Module) -> None:
    """Load a branch's weights, all of them.

    Args:
        setting (str): The setting's name, for error messages.
        cfg (dict): ``checkpoint``, a path or an address, and optionally
            ``prefix``, that of the branch's keys: in a cohort's checkpoint
            ``'branches.<name>'``.
        branch (nn.Module): The classifier, which is changed.

    Raises:
        ConfigError: If the checkpoint cannot be opened as data, or does not
            hold exactly the weights of the branch.
    """
    checkpoint = cfg.get('checkpoint')
    if not isinstance(checkpoint, str):
        raise ConfigError(f'{setting}.checkpoint must be a path or an '
                          f'address; got {checkpoint!r}')
    try:
        content = read_checkpoint(checkpoint)
    except ConfigError as error:
        raise ConfigError(f'{setting}: {error}') from error
    state_dict = {
        re.sub(r'^module\.', '', key): value
        for key, value in content.get('state_dict', content).items()
    }
    prefix = cfg.get('prefix') or ''
    if prefix:
        prefix = f'{prefix.rstrip(".")}.'
        state_dict = {
            key[len(prefix):]: value
            for key, value in state_dict.items() if key.startswith(prefix)
        }
        if not state_dict:
            raise ConfigError(f'{setting}: checkpoint {checkpoint} has no key '
                              f'that begins with the prefix {prefix}')
    faults = state_faults(branch.state_dict(), state_dict)
    if faults:
        under = f' under {prefix}' if prefix else ''
        raise ConfigError(f'{setting}: checkpoint {checkpoint}{under} is not '
                          f'of this branch: it {"; it ".join(faults)}')
    branch.load_state_dict(state_dict)
