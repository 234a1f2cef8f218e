"""Which branches the data of a config have views for."""
import copy
from typing import Any, Iterator, List, Mapping, Sequence, Tuple

import torch.nn as nn
from mmpretrain.models.utils import ClsDataPreprocessor

from mcod_plugin.config.parts import is_part, walk
from mcod_plugin.datasets import BranchViews, InMemoryDataset
from mcod_plugin.errors import ConfigError

__all__ = ['check_views', 'name_views']


def name_views(loader: Any, names: Sequence[str]) -> Any:
    """The config of a data loader for training with the names of the branches
    in the place of ``views=True``; a copy if there is any. Anything else stays
    as it is."""
    if not any(wanted is True for _, _, wanted in _views(loader)):
        return loader
    loader = copy.deepcopy(loader)
    for _, part, wanted in _views(loader):
        if wanted is True:
            part['views'] = list(names)
    return loader


def check_views(setting: str, loader: Any, model: nn.Module) -> None:
    """Raise unless the views of a data loader are those that a model takes:
    for training, of a cohort whose preprocessor takes several, for all
    branches, and the last that a pipeline makes. A loader that is built tells
    nothing."""
    branches = list(getattr(model, 'branches', ()))
    for path, part in walk(loader, setting):
        if isinstance(part, (list, tuple)):
            if any(is_part(step, BranchViews) for step in part[:-1]):
                raise ConfigError(f'{path}: BranchViews must be the last step '
                                  'of the pipeline')
        elif isinstance(part, Mapping) and isinstance(
                part.get('datasets'), (list, tuple)):
            if len({any(_views(one)) for one in part['datasets']}) > 1:
                raise ConfigError(f'{path}.datasets must all have views of '
                                  'the branches, or none of them')
    for path, _, given in _views(loader, setting):
        if not setting.startswith('train'):
            raise ConfigError(
                f'{path}: views of their own for branches are for training; '
                'validation and test take one image for all branches')
        if not branches:
            raise ConfigError(
                f'{path}: views are for the branches of a cohort, such as '
                'mcod_plugin.MultiBackboneClassifier; the model is of type '
                f'{type(model).__name__}')
        preprocessor = type(model.data_preprocessor)
        if preprocessor.forward is ClsDataPreprocessor.forward:
            raise ConfigError(
                f'{path}: data_preprocessor.type {preprocessor.__name__} '
                'takes one image for all branches; leave it out, or set '
                'mcod_plugin.BatchDataPreprocessor')
        _check_names(path, given, branches)


def _views(cfg: Any, path: str = '') -> Iterator[Tuple[str, dict, Any]]:
    """The places of views in a config: the setting, the part that has it, and
    its value."""
    for path, part in walk(cfg, path):
        if is_part(part, BranchViews):
            yield f'{path}.pipelines', part, part.get('pipelines')
        elif is_part(part, InMemoryDataset) and part.get('views'):
            yield f'{path}.views', part, part['views']


def _check_names(path: str, given: Any, branches: List[str]) -> None:
    """Raise unless views are those of all branches. What is no list of names
    is for the part itself to refuse."""
    if given is True or not isinstance(given, (Mapping, list, tuple)):
        return
    lacks = [name for name in branches if name not in given]
    adds = [str(name) for name in given if name not in branches]
    if lacks or adds:
        faults = [
            f'{word} {", ".join(found)}'
            for word, found in (('lacks', lacks), ('has', adds)) if found
        ]
        raise ConfigError(f'{path} must name all branches, '
                          f'{", ".join(branches)}; it {" and ".join(faults)}')
