"""From the config of a cohort to its branches and its preprocessor."""
import re
from dataclasses import replace
from typing import Any, Dict, Optional, Tuple

import torch.nn as nn
from mmengine.model import ModuleDict

from mcod_plugin.errors import ConfigError
from .branch_settings import BranchSettings
from .build_branch import build_branch, writes_images

__all__ = ['build_branches', 'check_names', 'with_default_preprocessor']

# Names that mean something else where a branch's name appears.
RESERVED_NAMES = ('ensemble', 'diversity', 'teacher')
# It stands in names of files, which have 255 letters at most, and in tables.
MOST_LETTERS = 64


def check_names(branches: Any) -> None:
    """Raise unless there are branches, with names that can be used as
    attributes, in checkpoint keys, log keys and file names."""
    if not isinstance(branches, dict) or not branches:
        raise ConfigError('model.branches must be a dict that names at least '
                          f'one classifier; got {branches!r}')
    spelled = {}
    for name in branches:
        if not isinstance(name, str) or not re.fullmatch(r'[\w-]+', name):
            raise ConfigError(
                'a name in model.branches must consist of letters, digits, _ '
                f'and -; got {name!r}')
        if name in RESERVED_NAMES or hasattr(ModuleDict(), name):
            raise ConfigError(f'the name {name!r} in model.branches is taken '
                              'by something else; choose another')
        if 'loss' in name:
            raise ConfigError(
                f'the name {name!r} in model.branches must not contain '
                "'loss': whatever has it in its log key is added to the loss")
        if len(name) > MOST_LETTERS:
            raise ConfigError(
                f'a name in model.branches must have at most {MOST_LETTERS} '
                f'letters; got {len(name)}: {name!r}')
        other = spelled.setdefault(name.casefold(), name)
        if other != name:
            raise ConfigError(
                f'the names {other!r} and {name!r} in model.branches must not '
                'differ in case alone: some file systems take them for one')


def build_branches(
    branches: Dict[str, Any], own: BranchSettings, in_channels: int,
    preprocessor: nn.Module
) -> Tuple[Dict[str, nn.Module], Dict[str, BranchSettings], int]:
    """The branches of a cohort and their settings by name, and the number of
    classes, which all of them and the preprocessor must share. The
    preprocessor is told it, to turn labels into one-hot scores. ``own`` are
    the settings of a branch that has none."""
    built, settings, numbers = {}, {}, {}
    for name, cfg in branches.items():
        cfg, found = own.take(name, cfg, in_channels)
        built[name], numbers[name] = build_branch(name, cfg, found.input_size,
                                                  in_channels)
        if writes_images(f'model.branches.{name}', built[name],
                         (2, in_channels, *found.input_size)):
            if found.recompute and not found.frozen:
                raise ConfigError(
                    f'model.branches.{name} changes its images in place, so '
                    'that its activations cannot be computed again; set its '
                    'recompute=False')
            found = replace(found, writes=True)
        settings[name] = found
    if len(set(numbers.values())) > 1:
        given = ', '.join(f'{name} {n}' for name, n in numbers.items())
        raise ConfigError('model.branches must agree on num_classes; got '
                          f'{given}')
    num_classes = next(iter(numbers.values()))
    given = getattr(preprocessor, 'num_classes', None)
    if given is None:
        preprocessor.num_classes = num_classes
    elif given != num_classes:
        raise ConfigError(
            f'data_preprocessor.num_classes is {given}, but num_classes of '
            f'the branches is {num_classes}')
    return built, settings, num_classes


def with_default_preprocessor(cfg: Any, train_cfg: Optional[dict]) -> Any:
    """The config of the cohort's preprocessor with its defaults; it is built
    by MMEngine, hence the scope. A built preprocessor stays as it is. The
    batch augmentations of ``train_cfg`` are the preprocessor's."""
    if not (cfg is None or isinstance(cfg, dict)):
        return cfg
    # Copied because the config of the caller must stay as it is.
    cfg = dict(cfg or {})
    cfg.setdefault('type', 'mcod_plugin.BatchDataPreprocessor')
    if train_cfg is not None:
        cfg.setdefault('batch_augments', train_cfg)
    return cfg
