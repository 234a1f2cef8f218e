"""Methods that any cohort can be trained by.

A method is a fragment of a config: teacher, distillation loss and schedule.
Those in ``configs/methods`` are told by their names.
"""
import os
import os.path as osp
from typing import Any, List, Sequence

from mcod_plugin.errors import ConfigError, nearest, one_line
from mcod_plugin.model_index import HOME
from .parts import type_name, walk
from .read import imported_modules, read_config

__all__ = ['METHODS', 'apply_method', 'find_method']

# The folder of the methods that have names.
METHODS = osp.join(HOME, 'configs', 'methods')


def find_method(name: str) -> str:
    """The file of a method: by a name such as ``'mcod'``, or the path of a
    ``.py`` file, which is taken as it is."""
    if name.endswith('.py'):
        if not osp.isfile(name):
            raise ConfigError(f'method {name}: there is no such file')
        return name
    known = sorted(file[:-len('.py')] for file in os.listdir(METHODS)
                   if file.endswith('.py')) if osp.isdir(METHODS) else []
    if name not in known:
        hint = nearest(name, known) or f'there are {", ".join(known)}'
        raise ConfigError(
            f'method {name} is unknown; {hint} (or the path of a .py file)')
    return osp.join(METHODS, f'{name}.py')


def apply_method(cfg: Any, path: str) -> None:
    """Merge the file of a method, see :func:`find_method`, into the config of
    a cohort, which is changed.

    Its ``custom_hooks`` take the place of the cohort's hooks of the same type,
    and all others stay; its ``custom_imports`` are added to the cohort's.
    Everything else is merged as by a child config: dicts are merged, or
    exchanged with ``_delete_=True``.
    """
    if 'branches' not in (cfg.get('model') or {}):
        raise ConfigError(f'method {path} is for cohorts: the config lacks '
                          'model.branches')
    fragment = read_config(path).to_dict()
    hooks = fragment.pop('custom_hooks', None)
    if hooks is not None:
        fragment['custom_hooks'] = _merge_hooks(
            cfg.get('custom_hooks') or [], hooks)
    own = fragment.get('custom_imports')
    if own:
        own['imports'] = list(
            dict.fromkeys(
                [*imported_modules(cfg), *imported_modules(fragment)]))
    try:
        cfg.merge_from_dict(fragment)
    except Exception as error:
        raise ConfigError(f'method {path}: {one_line(error)}') from error
    # MMEngine leaves the mark where there was nothing to delete.
    for _, value in walk(cfg):
        if isinstance(value, dict):
            value.pop('_delete_', None)


def _merge_hooks(hooks: Sequence[dict], own: Sequence[dict]) -> List[dict]:
    """A method's hooks in place of those of the same type."""
    kinds = {type_name(hook) for hook in own}
    places = [
        place for place, hook in enumerate(hooks) if type_name(hook) in kinds
    ]
    kept = [hook for hook in hooks if type_name(hook) not in kinds]
    place = places[0] if places else len(kept)
    return [*kept[:place], *own, *kept[place:]]
