"""From a library's error to one line that names the setting."""
import inspect
import re
from traceback import walk_tb
from typing import Any, List, Optional, Tuple

from mmengine.registry import Registry, build_from_cfg

from mcod_plugin.errors import ConfigError, nearest, one_line
from mcod_plugin.registry import RUNNERS
from .parts import walk

__all__ = ['arguments', 'explain', 'unknown_type']

UNKNOWN_TYPE = re.compile(r'(\S+) is not in the .+ registry')
UNKNOWN_ARGUMENT = re.compile(
    r"(\w+)\S* got an unexpected keyword argument '(\w+)'")


def explain(cfg: Any, error: Exception) -> ConfigError:
    """Tell in one line which setting kept a config from running, by what was
    raised while it was built."""
    text = one_line(error) or 'no reason given'
    building = _failed_build(error)
    path, given = _place_of(cfg, building['cfg']) if building else ('', {})
    # A data set that is held in memory is built as its source.
    held = 'source' in given and given['source'] == building['cfg'].get('type')
    unknown = UNKNOWN_TYPE.match(text)
    if unknown and isinstance(error, KeyError):
        # The runner is the one part whose type is not called so.
        key = 'source' if held else 'type'
        setting = f'{path}.{key}' if path else 'runner_type'
        registry = building['registry'] if building else RUNNERS
        return unknown_type(setting, unknown.group(1), registry)
    unknown = UNKNOWN_ARGUMENT.search(text)
    if unknown and building and unknown.group(2) in building['cfg']:
        owner, key = unknown.groups()
        allowed = arguments(building['obj_cls'])
        if held:
            allowed += arguments(building['registry'].get(given['type']))
        known = nearest(key, allowed) or f'it takes {", ".join(allowed)}'
        owner = getattr(building['obj_cls'], '__name__', owner)
        setting = f'{path}.{key}' if path else key
        return ConfigError(f'{setting} is no setting of {owner}; {known}')
    if path and path not in text:
        text = f'{path}: {text}'
    if not isinstance(error, ConfigError):
        text += (f' ({type(error).__name__}; set MCOD_DEBUG=1 to see where it '
                 'comes from)')
    return ConfigError(text)


def unknown_type(setting: str, name: str, registry: Registry) -> ConfigError:
    """The error of a ``type`` that a registry does not know, with the nearest
    names."""
    known = nearest(name, _registered(registry))
    return ConfigError(f'{setting} {name!r} is no registered {registry.name}; '
                       f'{known or "no name is like it"}')


def _failed_build(error: Optional[BaseException]) -> Optional[dict]:
    """The variables of the innermost ``build_from_cfg`` that failed: the
    part's ``cfg``, the ``registry`` and, if it was found, the ``obj_cls``.

    This is the one place that reads the variables of other code. MMEngine
    builds part within part by the registries of all packages, and what it
    raises does not say which part it was building: of two branches with the
    same backbone, only this tells which one is wrong.
    """
    found = None
    while error is not None:
        for frame, _ in walk_tb(error.__traceback__):
            if frame.f_code is build_from_cfg.__code__ and isinstance(
                    frame.f_locals['cfg'], dict):
                found = frame.f_locals
        error = error.__cause__
    return found


def _place_of(cfg: Any, part: dict) -> Tuple[str, dict]:
    """The dotted path within a config to the dict that a part was built from,
    and that dict.

    What builds a part may add to its dict or take from it, so the path is
    that of the dict which has the most in common with it.
    """
    best, most = ('', {}), 0
    kind = part.get('type')
    for path, child in walk(cfg):
        if path and isinstance(child, dict) and kind in (
                child.get('type', kind), child.get('source')):
            common = sum(key in part and part[key] is not None
                         and type(part[key]) is type(value)
                         and part[key] == value
                         for key, value in child.items())
            if common > most:
                best, most = (path, child), common
    return best


def _registered(registry: Registry) -> List[str]:
    """Names of one kind of part, as a config spells them."""
    while registry.parent is not None:
        registry = registry.parent
    names = []
    for child in (registry, *registry.children.values()):
        child.import_from_location()
        # Names of MMPretrain need no prefix.
        prefix = '' if child.scope in ('mmengine',
                                       'mmpretrain') else f'{child.scope}.'
        names += [prefix + name for name in child.module_dict]
    return names


def arguments(part: Any) -> List[str]:
    """Names of the arguments that a class or function takes, those of the
    class itself first; of None none."""
    if part is None:
        return []
    names = {}
    bases = part.__mro__ if inspect.isclass(part) else (part, )
    for base in bases:
        call = base.__init__ if inspect.isclass(base) else base
        parameters = inspect.signature(call).parameters
        names.update(parameters)
        # A class that takes any keyword hands it on to its base.
        if 'kwargs' not in parameters:
            break
    return [name for name in names if name not in ('self', 'args', 'kwargs')]
