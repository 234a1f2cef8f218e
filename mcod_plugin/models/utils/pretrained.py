"""Weights that a cohort, or a part of it, starts from."""
import logging
import re
from typing import Any, Dict

import torch.nn as nn
from mmengine.logging import print_log
from mmengine.model import PretrainedInit
from mmpretrain.models.classifiers import BaseClassifier

from mcod_plugin.config.parts import is_part
from mcod_plugin.errors import ConfigError, one_line
from mcod_plugin.utils.checkpoint import read_checkpoint, state_dict_mismatches

__all__ = ['keep_weights', 'load_pretrained', 'take_pretrained']


def keep_weights(setting: str, module: nn.Module) -> None:
    """Have a module start from the weights that it has.

    MMEngine initialises whatever it has not initialised itself, and so
    replaces weights that were loaded by other means.
    """
    if take_pretrained(module) and not getattr(module, 'is_init', False):
        print_log(
            f'{setting} is built already and keeps the weights that it has; '
            'those that its init_cfg names are not loaded',
            logger='current',
            level=logging.WARNING)
    module.is_init = True


def take_pretrained(model: nn.Module) -> Dict[str, dict]:
    """Take the checkpoints out of every ``init_cfg`` within a cohort or a
    classifier: the parts of type ``'Pretrained'``, for
    :func:`load_pretrained`, by the module's name, the innermost first. That of
    the model itself is ``''``. An ``override`` must not name a checkpoint.

    MMEngine would execute what a file holds besides weights, and would only
    log that they do not fit.
    """
    found = {}
    for name, module in reversed(list(model.named_modules())):
        cfgs = _as_list(getattr(module, 'init_cfg', None))
        if any(
                is_part(override, PretrainedInit) for cfg in cfgs
                for override in _as_list(cfg.get('override'))):
            raise ConfigError(
                f'init_cfg.override of {name or type(module).__name__} must '
                'not be Pretrained; give the part an init_cfg of its own')
        pretrained = [cfg for cfg in cfgs if is_part(cfg, PretrainedInit)]
        if pretrained:
            module.init_cfg = [cfg for cfg in cfgs if cfg not in pretrained]
            found[name] = pretrained[-1]
    return found


def _as_list(value: Any) -> list:
    return [value] if isinstance(value, dict) else list(value or ())


def load_pretrained(setting: str, cfg: dict, module: nn.Module) -> None:
    """Load all weights of a module: the cohort, a branch or another part. For
    a classifier the checkpoint must hold no others; for a part of one it may.

    The config has ``checkpoint``, a path or an ``http(s)`` address that is
    opened as data, and optionally ``prefix``, that of the module's keys: for a
    branch in a cohort's checkpoint ``'branches.<name>'``.
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
    partial = not isinstance(module, BaseClassifier)
    try:
        # Not compared beforehand: networks may adapt what they load, as
        # transformers do with their positions for another size of images.
        left = module.load_state_dict(state_dict, strict=False)
        if not left.missing_keys and (partial or not left.unexpected_keys):
            return
        reason = 'the keys differ'
    except (ConfigError, RuntimeError) as error:
        reason = one_line(error)
    if partial:
        state_dict = {
            key: value
            for key, value in state_dict.items() if key in wanted
        }
    faults = '; it '.join(state_dict_mismatches(wanted, state_dict)) or reason
    under = f' under {prefix}' if prefix else ''
    raise ConfigError(f'{setting}: checkpoint {checkpoint}{under} does not '
                      f'fit: it {faults}')
