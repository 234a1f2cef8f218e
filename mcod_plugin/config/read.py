"""Reading a config, and merging settings into it."""
# What takes seconds to import is imported where it is used: the command line
# tools import this for ``--help``.
import argparse
import ast
import os.path as osp
from pathlib import PurePath
from typing import Any, Dict, Iterator, Optional, Sequence

from mcod_plugin.errors import ConfigError, nearest, one_line

__all__ = [
    'LOADERS', 'base_files', 'imported_modules', 'merge_options',
    'merge_settings', 'read_config'
]

# Top-level keys that a config need not hold for them to be set.
RUNNER_KEYS = {
    'activation_checkpointing', 'auto_scale_lr', 'compile', 'cuda_graph',
    'custom_hooks', 'custom_imports', 'data_preprocessor', 'default_hooks',
    'default_scope', 'efficient_conv_bn_eval', 'env_cfg', 'experiment_name',
    'find_unused_parameters', 'launcher', 'load_from', 'log_level',
    'log_processor', 'model', 'model_wrapper_cfg', 'on_divergence',
    'optim_wrapper', 'parallel', 'param_scheduler', 'randomness', 'resume',
    'runner_type', 'sync_bn', 'test_cfg', 'test_dataloader', 'test_evaluator',
    'train_cfg', 'train_dataloader', 'val_cfg', 'val_dataloader',
    'val_evaluator', 'visualizer', 'work_dir'
}

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')

# What a setting at the top must be, unless it is None.
KINDS = {
    **dict.fromkeys(
        ('auto_scale_lr', 'custom_imports', 'data_preprocessor',
         'default_hooks', 'env_cfg', 'log_processor', 'model',
         'optim_wrapper', 'randomness', 'test_cfg', 'train_cfg', 'tta_model',
         'val_cfg', 'visualizer', *LOADERS), 'a dict'),
    **dict.fromkeys(('custom_hooks', 'tta_pipeline'), 'a list of dicts'),
    **dict.fromkeys(('param_scheduler', 'test_evaluator', 'val_evaluator'),
                    'a dict or a list of dicts'),
}


def read_config(path: str) -> Any:
    """Read a config. What it imports is no setting of it, and a path of
    ``pathlib`` is a text."""
    if not osp.isfile(path):
        raise ConfigError(f'config {path}: there is no such file')
    from mmengine.config import Config
    try:
        cfg = _as_settings(Config.fromfile(path))
        _check_kinds(cfg)
        return cfg
    except SyntaxError as error:
        raise ConfigError(f'config {_broken_file(path) or path}, line '
                          f'{error.lineno}: {error.msg}: '
                          f'{(error.text or "").strip()}') from error
    except Exception as error:
        # Whatever the file does when it is executed.
        reason = one_line(error) or type(error).__name__
        if 'lazy_import' in reason or (type(error) is RuntimeError
                                         and not error.args):
            # Within a file of that style, what is imported is not there yet.
            reason = (
                'an import above _base_ makes MMEngine read it as a config of '
                'its new style, in which nothing that was imported can be '
                'called; write _base_ first, or _base_ = [] if it has none')
        raise ConfigError(f'config {path}: {reason}') from error


def _as_settings(cfg: Any) -> Any:
    """A config as it can be written into a file again.

    MMEngine leaves out modules and functions that a config imports, but not
    classes such as ``Path``.
    """
    from .parts import walk

    # Those of MMEngine's new style hold classes, and write them as imports.
    if cfg._imported_names:
        return cfg
    for key, value in list(cfg.items()):
        if isinstance(value, type) and key not in RUNNER_KEYS:
            cfg.pop(key)
        elif any(isinstance(part, PurePath) for _, part in walk(value)):
            cfg[key] = _without_paths(value)
    return cfg


def _check_kinds(cfg: Any) -> None:
    """Raise unless each setting at the top is of the kind that it must be."""
    for name, kind in KINDS.items():
        value = cfg.get(name)
        if isinstance(value, (list, tuple)):
            fits = 'list' in kind and all(
                isinstance(part, dict) for part in value)
        else:
            fits = isinstance(value, dict) and kind != 'a list of dicts'
        if value is not None and not fits:
            raise ConfigError(f'{name} must be {kind}; got {value!r}')


def _without_paths(value: Any) -> Any:
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, dict):
        return type(value)({k: _without_paths(v) for k, v in value.items()})
    if isinstance(value, (list, tuple)):
        return type(value)(map(_without_paths, value))
    return value


def _broken_file(path: str) -> Optional[str]:
    """The config or base config that Python cannot parse: MMEngine's error
    does not name it."""
    try:
        return next(filter(None, map(_broken_file, _bases(path))), None)
    except SyntaxError:
        return path


def base_files(path: str) -> Iterator[str]:
    """The files that a config inherits by relative path, and theirs."""
    for base in _bases(path):
        yield base
        yield from base_files(base)


def _bases(path: str) -> Iterator[str]:
    """The base configs that a config names, by ``_base_`` or within ``with
    read_base()``, as far as they are files."""
    with open(path, encoding='utf-8') as file:
        tree = ast.parse(file.read())
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and getattr(node.targets[0], 'id',
                                                    None) == '_base_':
            names += (
                part.value for part in ast.walk(node.value)
                if isinstance(part, ast.Constant))
        elif isinstance(node, ast.ImportFrom) and node.level:
            name = (node.module or '').replace('.', '/')
            names.append(osp.join(*['..'] * (node.level - 1), f'{name}.py'))
    folder = osp.dirname(osp.abspath(path))
    return filter(osp.isfile, (osp.join(folder, name) for name in names))


def imported_modules(cfg: Any) -> Sequence[str]:
    """The modules that a config imports by ``custom_imports``, which may name
    a single one."""
    found = (cfg.get('custom_imports') or {}).get('imports') or []
    return [found] if isinstance(found, str) else found


def merge_options(cfg: Any, options: Sequence[str]) -> None:
    """Merge ``--cfg-options``, texts ``KEY=VALUE`` whose keys lead somewhere,
    into a config."""
    merge_settings(cfg, _parse_options(options), '--cfg-options')


def merge_settings(cfg: Any, settings: Dict[str, Any], source: str) -> None:
    """Merge values by dotted key into a config. Raise, with the ``source`` of
    the settings, if a key leads nowhere: a top-level name that the config does
    not know is a slip, not a new setting."""
    for key, value in settings.items():
        top = key.partition('.')[0]
        if top not in cfg and top not in RUNNER_KEYS:
            raise ConfigError(
                f'{source} {key}: the config has no setting {top!r}; ' +
                (nearest(top, {*cfg, *RUNNER_KEYS}) or f'it has '
                 f'{", ".join(sorted(cfg))}'))
        try:
            cfg.merge_from_dict({key: value})
            _check_kinds(cfg)
        except Exception as error:
            raise ConfigError(f'{source} {key}: {one_line(error)}') from error


def _parse_options(options: Sequence[str]) -> Dict[str, Any]:
    from mmengine.config import DictAction
    parsed = argparse.Namespace(options={})
    action = DictAction(['--cfg-options'], 'options')
    for option in options:
        if not option.partition('=')[0] or '=' not in option:
            raise ConfigError(f'--cfg-options takes KEY=VALUE; got {option!r}')
        try:
            action(None, parsed, [option])
        except AssertionError as error:
            raise ConfigError(f'--cfg-options {option}: {error}') from error
        except RecursionError as error:
            raise ConfigError(
                f'--cfg-options {option}: a value is a number, a word, or a '
                'list or tuple of such; for a dict name each of its keys, as '
                'in model.teacher.fusion=mean') from error
    return parsed.options
