"""From a library's error to one line that names the setting."""
import importlib
import inspect
import re
from typing import Any, Dict, Iterator, List, Optional, Tuple

from mmengine.registry import Registry

from mcod_plugin.errors import ConfigError, nearest

__all__ = ['explain', 'one_line']

UNKNOWN_TYPE = re.compile(r'(\S+) is not in the \S+?::(.+?) registry')
UNKNOWN_ARGUMENT = re.compile(
    r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'")


def explain(cfg: Any, error: Exception) -> ConfigError:
    """Tell in one line which setting kept a config from running.

    Args:
        cfg (Config): The config.
        error (Exception): What was raised while it was built.

    Returns:
        ConfigError: The explanation.
    """
    if isinstance(error, ConfigError):
        return error
    text = one_line(error)
    unknown = UNKNOWN_TYPE.search(text)
    if unknown:
        name, kind = unknown.group(1).strip('\'"'), unknown.group(2)
        where = _setting_of(cfg, name) or 'type'
        known = nearest(name, _registered(kind))
        return ConfigError(f'{where} {name!r} is no registered {kind}; '
                           f'{known or "no name is like it"}')
    argument = UNKNOWN_ARGUMENT.search(text)
    if argument:
        owner, given = argument.groups()
        allowed = _arguments(owner)
        known = nearest(given, allowed) or f'it takes {", ".join(allowed)}'
        return ConfigError(f'{owner} has no setting {given!r}; {known}')
    return ConfigError(f'{text or "no reason given"} '
                       f'({type(error).__name__}; set MCOD_DEBUG=1 to see '
                       'where it comes from)')


def one_line(error: Exception) -> str:
    """An error's message without line breaks.

    Args:
        error (Exception): The error.

    Returns:
        str: The message.
    """
    text = error.args[0] if isinstance(error,
                                       KeyError) and error.args else error
    return ' '.join(str(text).split())


def _registries(kind: Optional[str] = None) -> Iterator[Registry]:
    """Registries of the plugin, the toolbox and MMEngine."""
    for package in ('mcod_plugin', 'mmpretrain', 'mmengine'):
        module = importlib.import_module(f'{package}.registry')
        for value in vars(module).values():
            if isinstance(value, Registry) and kind in (None, value.name):
                value.import_from_location()
                yield value


def _registered(kind: str) -> List[str]:
    """Names of one kind of part, as a config spells them."""
    names: Dict[str, None] = {}
    for registry in _registries(kind):
        prefix = 'mcod_plugin.' if registry.scope == 'mcod_plugin' else ''
        names.update((prefix + name, None) for name in registry.module_dict)
    return list(names)


def _arguments(owner: str) -> List[str]:
    """Names of the arguments that a registered class takes."""
    for registry in _registries():
        cls = registry.module_dict.get(owner)
        if inspect.isclass(cls):
            return [
                name for base in cls.__mro__ if base is not object
                for name in inspect.signature(base.__init__).parameters
                if name not in ('self', 'args', 'kwargs')
            ]
    return []


def _setting_of(value: Any, name: str, path: str = '') -> Optional[str]:
    """The dotted path to the ``type`` of a name within a config."""
    for key, child in _items(value):
        here = f'{path}.{key}' if path else str(key)
        if key == 'type' and child == name:
            return here
        found = _setting_of(child, name, here)
        if found:
            return found
    return None


def _items(value: Any) -> Iterator[Tuple[Any, Any]]:
    if hasattr(value, 'items'):
        return iter(value.items())
    if isinstance(value, (list, tuple)):
        return iter(enumerate(value))
    return iter(())
