"""The config of a branch as it stands alone."""
from typing import Any

import torch.nn as nn
from mmpretrain.models.necks import GlobalAveragePooling

from mcod_plugin.config.branch_from import SHARED_KEYS
from mcod_plugin.config.parts import walk
from mcod_plugin.config.plain import plain
from mcod_plugin.config.pretrained import without_pretrained
from mcod_plugin.models.necks import LayoutPooling

__all__ = ['PLUGIN', 'needs_plugin', 'stand_alone']

PLUGIN = 'mcod_plugin'


def stand_alone(setting: str, cfg: dict, classifier: nn.Module) -> dict:
    """Complete the config of a branch's classifier, of plain values that a
    config file can hold, with what the cohort has worked out: the neck, and
    ``in_channels`` and ``num_classes`` of the head. Weights to start from are
    left out."""
    cfg = without_pretrained(plain(setting, cfg))
    if cfg.get('_scope_') == 'mmpretrain':
        # It is the default scope of the config that this becomes part of.
        del cfg['_scope_']
    cfg = {'type': cfg.pop('type', 'ImageClassifier'), **cfg}
    for key in SHARED_KEYS:
        cfg.pop(key, None)
    head = getattr(classifier, 'head', None)
    if isinstance(cfg.get('head'), dict) and head is not None:
        if 'neck' not in cfg and getattr(classifier, 'neck', None) is not None:
            found = dict(backbone=cfg.pop('backbone'))
            found['neck'] = _neck(classifier.neck)
            cfg = {'type': cfg.pop('type'), **found, **cfg}
        for key in ('num_classes', 'in_channels'):
            value = getattr(head, key, None)
            if isinstance(value, int):
                cfg['head'].setdefault(key, value)
    return cfg


def _neck(neck: nn.Module) -> dict:
    """The config of a neck that was left out."""
    if isinstance(neck, LayoutPooling):
        return dict(
            type=f'{PLUGIN}.LayoutPooling',
            layout=neck.layout,
            num_prefix_tokens=neck.num_prefix_tokens)
    assert isinstance(neck, GlobalAveragePooling), neck
    if isinstance(neck.gap, nn.AdaptiveAvgPool1d):
        return dict(type='GlobalAveragePooling', dim=1)
    return dict(type='GlobalAveragePooling')


def needs_plugin(cfg: Any) -> bool:
    """Whether a ``type`` or a collate function of a plain config is this
    plugin's."""
    return any(
        isinstance(value, str) and value.startswith(f'{PLUGIN}.')
        for _, value in walk(cfg))
