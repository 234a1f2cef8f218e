"""The config of a branch as it stands alone."""
import copy
import inspect
from typing import Any, Iterator

import torch.nn as nn
from mmpretrain.models.necks import GlobalAveragePooling

from mcod_plugin.errors import ConfigError
from mcod_plugin.models.necks import LayoutPooling

__all__ = [
    'is_pretrained', 'needs_plugin', 'plain', 'stand_alone', 'texts',
    'without_pretrained'
]

PLUGIN = 'mcod_plugin'

# Where weights to start from come from. They are in the checkpoint now.
PRETRAINED_KEYS = ('pretrained', 'checkpoint_path')


def stand_alone(setting: str, cfg: dict, classifier: nn.Module) -> dict:
    """Complete a branch's config with what the cohort has worked out.

    Args:
        setting (str): The branch's setting, for error messages.
        cfg (dict): The config of the classifier, without the settings that
            only a cohort knows.
        classifier (nn.Module): What was built from it.

    Returns:
        dict: A config of plain values, with the neck, ``in_channels`` and
        ``num_classes`` of the head. Weights to start from are left out.

    Raises:
        ConfigError: If it holds something that a config file cannot.
    """
    cfg = without_pretrained(plain(setting, cfg))
    if cfg.get('_scope_') == 'mmpretrain':
        # It is the default scope of the config that this becomes part of.
        del cfg['_scope_']
    cfg = {'type': cfg.pop('type', 'ImageClassifier'), **cfg}
    for key in ('train_cfg', 'data_preprocessor'):
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


def plain(setting: str, value: Any) -> Any:
    """Turn a config into one of Python's own containers and values.

    Args:
        setting (str): The setting's name, for error messages.
        value (Any): The config. A class is told by the name that it is
            registered under.

    Returns:
        Any: The plain config, a copy.

    Raises:
        ConfigError: If there is something else in it.
    """
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
        if package == PLUGIN:
            return f'{PLUGIN}.{value.__name__}'
        return f'{value.__module__}.{value.__qualname__}'
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ConfigError(f'{setting} cannot be written into a config: it must be '
                      'made of dicts, lists, names and numbers; got a '
                      f'{type(value).__name__}')


def without_pretrained(cfg: Any) -> Any:
    """A copy of a config that asks for no weights to start from.

    Args:
        cfg (Any): The config.

    Returns:
        Any: The copy.
    """
    if isinstance(cfg, dict):
        return type(cfg)({
            key: without_pretrained(value)
            for key, value in cfg.items()
            if key not in PRETRAINED_KEYS and not _loads_weights(key, value)
        })
    if isinstance(cfg, (list, tuple)):
        return type(cfg)(without_pretrained(value) for value in cfg)
    return copy.deepcopy(cfg)


def is_pretrained(cfg: Any) -> bool:
    """Whether a config asks for weights to start from.

    Args:
        cfg (Any): The config.

    Returns:
        bool: Whether it, or a part of it, does.
    """
    if isinstance(cfg, dict):
        return any(
            _loads_weights(key, value) or is_pretrained(value)
            for key, value in cfg.items())
    return isinstance(cfg, (list, tuple)) and any(map(is_pretrained, cfg))


def _loads_weights(key: str, value: Any) -> bool:
    if key in PRETRAINED_KEYS:
        return bool(value)
    cfgs = value if isinstance(value, (list, tuple)) else [value]
    return key == 'init_cfg' and any(
        isinstance(cfg, dict) and str(cfg.get('type')).endswith('Pretrained')
        for cfg in cfgs)


def needs_plugin(cfg: Any) -> bool:
    """Whether a config asks for parts of this plugin.

    Args:
        cfg (Any): A plain config.

    Returns:
        bool: Whether a ``type`` or a collate function is this plugin's.
    """
    return any(value.startswith(f'{PLUGIN}.') for value in texts(cfg))


def texts(value: Any) -> Iterator[str]:
    """All texts within a config.

    Args:
        value (Any): The plain config.

    Yields:
        str: A value that is a text.
    """
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for child in value:
            yield from texts(child)
    elif isinstance(value, str):
        yield value
