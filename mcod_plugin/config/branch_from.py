"""The model of an existing config, as a branch."""
import os
import os.path as osp
from importlib.util import find_spec
from typing import Any, Dict

from mcod_plugin.errors import ConfigError, nearest
from .read import read_config

__all__ = ['branch_from', 'read_source']

# What a model's config holds and a branch does not: all branches share it.
SHARED_KEYS = ('data_preprocessor', 'train_cfg')


def branch_from(config: str, **settings) -> Dict[str, Any]:
    """Inherit a branch of a cohort from the config of a classifier.

    MMEngine's ``_base_`` inherits whole configs, and at most one that has a
    model. This takes the model alone, so that a cohort can inherit each
    branch from another config. It is called when the config is read: what is
    dumped, or changed by ``--cfg-options``, is the branch's full config.

    Args:
        config (str): ``'<package>::<path>'`` of a config that an OpenMMLab
            package ships, as in ``_base_``, or the path of a file; in a
            config ``'{{ fileDirname }}'`` stands for its own folder.
        **settings: Settings of the branch beside its model, such as
            ``lr_mult``, or in place of the model's own.

    Returns:
        dict: The branch's config, without the preprocessor and the batch
        augmentations, which are the cohort's.

    Raises:
        ConfigError: If the config cannot be read or has no model.

    Examples:
        >>> model = dict(
        ...     type='mcod_plugin.MultiBackboneClassifier',
        ...     branches=dict(
        ...         resnet18=branch_from(
        ...             'mmpretrain::resnet/resnet18_8xb16_cifar10.py'),
        ...         mine=branch_from('{{ fileDirname }}/mine.py')))
    """
    cfg = read_source(config)
    model = cfg.to_dict().get('model')
    if not isinstance(model, dict):
        raise ConfigError(f'config {config} lacks the setting model')
    for key in SHARED_KEYS:
        model.pop(key, None)
    scope = cfg.get('default_scope')
    if scope not in (None, 'mmpretrain'):
        # Bare names of a branch are MMPretrain's unless it says otherwise.
        model.setdefault('_scope_', scope)
    return {**model, **settings}


def read_source(config: str) -> Any:
    """Read a config that may belong to a package, see :func:`branch_from`."""
    if '::' not in config:
        return read_config(config)
    package, _, path = config.partition('::')
    spec = find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(f'config {config}: there is no package {package!r} '
                          'on this machine')
    # Where mmengine.hub.get_config finds it too, after it has read the
    # descriptions of all models of the package.
    folder = osp.join(spec.submodule_search_locations[0], '.mim', 'configs')
    path = osp.join(folder, path)
    if not osp.isfile(path):
        folder, name = osp.split(path)
        known = [
            osp.splitext(file)[0] for file in os.listdir(folder)
            if file.endswith('.py')
        ] if osp.isdir(folder) else []
        hint = nearest(osp.splitext(name)[0], known)
        raise ConfigError(f'config {config}: there is no such file in '
                          f'{package}; {hint}'.rstrip('; '))
    return read_config(path)
