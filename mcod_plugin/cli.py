"""What the command line tools have in common."""
import argparse
import ast
import logging
import os
import os.path as osp
import shutil
import sys
import warnings
from contextlib import contextmanager
from typing import Any, Callable, Iterator, Optional, Set

import torch
from mmengine.config import Config, DictAction
from mmengine.runner import Runner

from mcod_plugin.errors import ConfigError, nearest
from mcod_plugin.registry import RUNNERS
from mcod_plugin.utils.explain import explain, one_line

__all__ = ['add_config_arguments', 'load_config', 'run_config', 'user_errors']

# Top-level keys that a config need not hold for them to be set.
RUNNER_KEYS = {
    'activation_checkpointing', 'auto_scale_lr', 'compile', 'custom_hooks',
    'custom_imports', 'data_preprocessor', 'default_hooks', 'default_scope',
    'efficient_conv_bn_eval', 'env_cfg', 'experiment_name',
    'find_unused_parameters', 'launcher', 'load_from', 'log_level',
    'log_processor', 'model', 'model_wrapper_cfg', 'optim_wrapper',
    'param_scheduler', 'randomness', 'resume', 'runner_type', 'sync_bn',
    'test_cfg', 'test_dataloader', 'test_evaluator', 'train_cfg',
    'train_dataloader', 'val_cfg', 'val_dataloader', 'val_evaluator',
    'visualizer', 'work_dir'
}


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of all tools that run a config, named as the
    toolbox names them.

    Args:
        parser (ArgumentParser): The parser to add them to.
    """
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        default={},
        metavar='KEY=VALUE',
        help='settings that replace those of the config, such as '
        'train_cfg.max_epochs=2 or custom_hooks.0.weight=0,0')
    parser.add_argument(
        '--no-pin-memory',
        action='store_true',
        help='do not use pinned memory in data loaders')
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='how several processes were started (default: none)')
    # torchrun sets the variable, older launchers pass the argument.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)


def load_config(args: argparse.Namespace) -> Config:
    """Read the config and merge the arguments that all tools share.

    Args:
        args (Namespace): Parsed arguments: ``config``, ``work_dir`` and those
            of :func:`add_config_arguments`.

    Returns:
        Config: The config, with ``work_dir`` from the command line, else from
        the file, else named after it.

    Raises:
        ConfigError: If the file is missing or cannot be read, or an option
            names no setting.
    """
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    if not osp.isfile(args.config):
        raise ConfigError(f'config {args.config} does not exist')
    try:
        if args.config.endswith('.py'):
            with open(args.config, encoding='utf-8') as file:
                ast.parse(file.read())
        cfg = Config.fromfile(args.config)
    except SyntaxError as error:
        raise ConfigError(f'config {args.config}, line {error.lineno}: '
                          f'{error.msg}: {(error.text or "").strip()}'
                          ) from error
    except Exception as error:
        raise ConfigError(
            f'config {args.config}: {one_line(error)}') from error
    _merge_options(cfg, args.cfg_options)
    cfg.launcher = args.launcher
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        name = osp.splitext(osp.basename(args.config))[0]
        cfg.work_dir = osp.join('work_dirs', name)
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        loader = cfg.get(name)
        if loader is not None:
            loader.setdefault('collate_fn', dict(type='default_collate'))
            if args.no_pin_memory or not torch.cuda.is_available():
                loader.pin_memory = False
    return cfg


def _merge_options(cfg: Config, options: dict) -> None:
    """Merge ``--cfg-options``; a name that the config does not know is a
    slip, not a new setting."""
    for key in options:
        top = key.partition('.')[0]
        if top not in cfg and top not in RUNNER_KEYS:
            known = nearest(top, {*cfg, *RUNNER_KEYS})
            raise ConfigError(
                f'--cfg-options {key}: the config has no setting {top!r}; '
                f'{known or "see its --help"}')
    try:
        cfg.merge_from_dict(options)
    except Exception as error:
        raise ConfigError(f'--cfg-options {" ".join(options)}: '
                          f'{one_line(error)}') from error


def run_config(cfg: Config, action: Callable[[Runner], Any]) -> Any:
    """Build the runner of a config and do something with it.

    What goes wrong before the first epoch has begun is a mistake in a setting
    or a file: what the start left in the work directory is removed, and a
    :class:`ConfigError` tells the mistake. Later on, an error is raised as
    it is.

    Args:
        cfg (Config): The config.
        action (Callable): Takes the runner.

    Returns:
        Any: What the action returns.

    Raises:
        ConfigError: If the run cannot begin.
    """
    cfg.setdefault('runner_type', 'mcod_plugin.CohortRunner')
    before = _entries(cfg.work_dir)
    runner = None
    try:
        runner = RUNNERS.build(cfg)
        return action(runner)
    except Exception as error:
        if getattr(runner, 'started', False):
            raise
        logging.shutdown()
        _remove_new(cfg.work_dir, before)
        raise explain(cfg, error) from error


@contextmanager
def user_errors() -> Iterator[None]:
    """End the process with one line on stderr and exit code 2 if the block
    raises a :class:`ConfigError`."""
    # They tell of parts that this plugin does not use, on every start.
    warnings.filterwarnings('ignore', message='.*mmcv-lite.*')
    try:
        yield
    except ConfigError as error:
        if os.environ.get('MCOD_DEBUG'):
            raise
        if os.environ.get('RANK', '0') == '0':
            print(f'error: {one_line(error)}', file=sys.stderr)
        sys.exit(2)


def _entries(folder: str) -> Optional[Set[str]]:
    return set(os.listdir(folder)) if osp.isdir(folder) else None


def _remove_new(folder: str, before: Optional[Set[str]]) -> None:
    """Remove what was not in a folder before, and the folder if it is new."""
    for name in (_entries(folder) or set()) - (before or set()):
        path = osp.join(folder, name)
        if osp.isdir(path):
            shutil.rmtree(path)
        else:
            os.remove(path)
    if before is None and osp.isdir(folder):
        os.rmdir(folder)
        parent = osp.dirname(folder)
        if parent and not _entries(parent):
            os.rmdir(parent)
