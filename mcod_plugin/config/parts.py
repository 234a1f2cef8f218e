"""The parts of a config, each of which says by ``type`` what it builds."""
from functools import lru_cache
from typing import Any, Iterator, List, Mapping, Optional, Set, Tuple, Union

import mmengine.registry
from mmengine.config import Config
from mmengine.registry import Registry
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop
from mmengine.utils import get_object_from_string

__all__ = ['counts_epochs', 'is_part', 'metric_configs', 'type_name', 'walk']

# MMEngine's registries, whose children are those of projects.
ROOTS = [
    value for value in vars(mmengine.registry).values()
    if isinstance(value, Registry)
]
# The scopes in which no two parts have the same name.
SCOPES = ('', 'mcod_plugin', 'mmengine', 'mmpretrain')


def is_part(cfg: Any,
            cls: Union[type, Tuple[type, ...]],
            key: str = 'type') -> bool:
    """Whether a config builds an object of a class.

    Args:
        cfg (dict | Any): The config. What is none builds nothing.
        cls (type | tuple[type]): The class, not one derived from it, or
            several of which it may be any.
        key (str): The setting that names it. Defaults to ``'type'``.

    Returns:
        bool: Whether the setting is the class itself, as in a config of pure
        Python style, a name that it is registered under, with or without a
        scope, or the dotted path by which it is imported.

    Examples:
        >>> is_part(dict(type='mmengine.Pretrained'), PretrainedInit)
        True
    """
    if isinstance(cls, tuple):
        return any(is_part(cfg, one, key) for one in cls)
    kind = cfg.get(key) if isinstance(cfg, Mapping) else None
    if not isinstance(kind, str):
        return kind is cls
    scope, _, name = kind.rpartition('.')
    return name in _names(cls) and (scope in SCOPES
                                    or _named(kind, cls) is cls)


@lru_cache(maxsize=None)
def _names(cls: type) -> Set[str]:
    """The class's own name and those that it is registered under."""
    return {cls.__name__}.union(
        *({name
           for name, part in registry.module_dict.items() if part is cls}
          for root in ROOTS for registry in (root, *root.children.values())))


def _named(kind: str, cls: type) -> Any:
    """What a name stands for that has the scope of another project, or is a
    dotted path."""
    scope, _, name = kind.rpartition('.')
    projects = [
        root.children[scope] for root in ROOTS if scope in root.children
    ]
    if not projects:
        return get_object_from_string(kind)
    own = [project.module_dict.get(name) for project in projects]
    # What a project has not itself, it takes from MMEngine.
    return next(filter(None, own), cls)


def type_name(cfg: Mapping, key: str = 'type') -> str:
    """The name of what a config builds, to be read: without scope or module,
    as ``'SGD'``; empty if the config does not tell. Whether it is a certain
    class is asked of :func:`is_part`."""
    kind: Any = cfg.get(key) or ''
    return getattr(kind, '__name__', str(kind)).rpartition('.')[2]


def counts_epochs(train_cfg: Mapping) -> Optional[bool]:
    """Whether training counts epochs, else iterations, by the config of its
    loop; None if that does not tell, or is of another loop."""
    if 'type' not in train_cfg:
        by_epoch = train_cfg.get('by_epoch')
        return by_epoch if isinstance(by_epoch, bool) else None
    for loop, answer in ((EpochBasedTrainLoop, True), (IterBasedTrainLoop,
                                                       False)):
        if is_part(train_cfg, loop):
            return answer
    return None


def metric_configs(evaluator: Any) -> List[dict]:
    """The metrics of an evaluator's config: one, several, or an evaluator that
    holds them as ``metrics``."""
    if isinstance(evaluator, Mapping):
        evaluator = evaluator.get('metrics', evaluator)
    if isinstance(evaluator, Mapping):
        return [evaluator]
    return list(evaluator or ())


def walk(cfg: Any, path: str = '') -> Iterator[Tuple[str, Any]]:
    """A config and everything within it: the dotted path of each value, and
    the value. Dicts, lists and tuples come before what they hold; what is done
    to one of them then decides what is found in it."""
    yield path, cfg
    if isinstance(cfg, (Mapping, Config)):
        items = list(cfg.items())
    elif isinstance(cfg, (list, tuple)):
        items = list(enumerate(cfg))
    else:
        return
    for key, value in items:
        yield from walk(value, f'{path}.{key}' if path else str(key))
