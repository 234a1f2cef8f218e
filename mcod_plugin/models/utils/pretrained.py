"""Weights that a branch, or a part of it, starts from."""
import re
from contextlib import contextmanager
from typing import Dict, Iterator

import torch.nn as nn
from mmengine.model import PretrainedInit

from mcod_plugin.errors import ConfigError
from mcod_plugin.utils.checkpoint import read_checkpoint
from mcod_plugin.utils.explain import one_line
from .state_faults import state_faults

__all__ = ['complete_timm_weights', 'load_pretrained', 'take_pretrained']


def take_pretrained(branch: nn.Module) -> Dict[str, dict]:
    """Take the checkpoints out of every ``init_cfg`` within a branch.

    MMEngine would execute what a file holds besides weights, and would only
    log that they do not fit.

    Args:
        branch (nn.Module): The classifier, whose ``init_cfg`` are changed.

    Returns:
        dict[str, dict]: The parts of type ``'Pretrained'``, for
        :func:`load_pretrained`, by the module's name, the innermost first.
        That of the branch itself is ``''``.
    """
    found = {}
    for name, module in reversed(list(branch.named_modules())):
        given = getattr(module, 'init_cfg', None) or []
        cfgs = [given] if isinstance(given, dict) else list(given)
        pretrained = [
            cfg for cfg in cfgs
            if cfg.get('type') in ('Pretrained', PretrainedInit)
        ]
        if pretrained:
            module.init_cfg = [cfg for cfg in cfgs if cfg not in pretrained]
            found[name] = pretrained[-1]
    return found


def load_pretrained(setting: str,
                    cfg: dict,
                    module: nn.Module,
                    partial: bool = False) -> None:
    """Load the weights of a module, all of them.

    Args:
        setting (str): The setting's name, for error messages.
        cfg (dict): ``checkpoint``, a path or an ``http(s)`` address, and
            optionally ``prefix``, that of the module's keys: for a branch in
            a cohort's checkpoint ``'branches.<name>'``.
        module (nn.Module): The branch or its part, which is changed.
        partial (bool): Whether the checkpoint may hold more than the weights
            of the module. Defaults to False.

    Raises:
        ConfigError: If the checkpoint cannot be opened as data, or its
            weights do not fit.
    """
    checkpoint = cfg.get('checkpoint')
    if not isinstance(checkpoint, str) or not re.match(
            r'https?://|(?!\w+://)', checkpoint):
        raise ConfigError(f'{setting}.checkpoint must be a path or an '
                          f'http(s) address; got {checkpoint!r}')
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
    wanted = module.state_dict()
    try:
        # Not compared beforehand: networks may adapt what they load, as
        # transformers do with their positions for another size of images.
        left = module.load_state_dict(state_dict, strict=False)
        if not left.missing_keys and (partial or not left.unexpected_keys):
            return
        reason = 'the keys differ'
    except RuntimeError as error:
        reason = one_line(error)
    if partial:
        state_dict = {
            key: value
            for key, value in state_dict.items() if key in wanted
        }
    faults = '; it '.join(state_faults(wanted, state_dict)) or reason
    under = f' under {prefix}' if prefix else ''
    raise ConfigError(f'{setting}: checkpoint {checkpoint}{under} does not '
                      f'fit: it {faults}')


@contextmanager
def complete_timm_weights() -> Iterator[None]:
    """Have timm's pretrained weights be complete, the last layer apart.

    For another number of classes, or for features only, timm loads what
    there is and logs what there is not.

    Raises:
        ConfigError: If a network that is built within has a weight that the
            pretrained ones lack.
    """
    load = nn.Module.load_state_dict

    def load_completely(module: nn.Module, *args, **kwargs):
        left = load(module, *args, **kwargs)
        # It is named where the weights come from.
        last = (getattr(module, 'pretrained_cfg', None)
                or {}).get('classifier') or ()
        last = [last] if isinstance(last, str) else last
        missing = [
            key for key in left.missing_keys
            if key.rpartition('.')[0] not in last
        ]
        if missing:
            raise ConfigError(
                f'the pretrained weights lack {len(missing)} of the network, '
                f'such as {missing[0]}')
        return left

    # timm returns nothing that would tell.
    nn.Module.load_state_dict = load_completely
    try:
        yield
    finally:
        nn.Module.load_state_dict = load
