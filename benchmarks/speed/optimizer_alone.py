"""The optimizer of a branch as it is trained alone."""
import copy

from mcod_plugin.config.parts import is_part
from mcod_plugin.engine.optim_wrapper import BranchOptimWrapperConstructor
from mcod_plugin.engine.optim_wrapper.branch_optim_wrapper_constructor import (
    FACTORS)
from mcod_plugin.errors import ConfigError
from mcod_plugin.models.utils.branch_settings import BranchSettings

__all__ = ['optim_wrapper_alone']


def optim_wrapper_alone(cfg: dict, branch: BranchSettings) -> dict:
    """The config of an optimizer wrapper for one branch alone.

    Args:
        cfg (dict): The cohort's, which stays as it is.
        branch (BranchSettings): The branch's settings.

    Returns:
        dict: The config, with the branch's optimizer, learning rate, weight
        decay and limits of gradients.

    Raises:
        ConfigError: If the branch has a factor of what the optimizer's config
            does not state.
    """
    cfg = copy.deepcopy(cfg)
    if is_part(cfg, BranchOptimWrapperConstructor, 'constructor'):
        del cfg['constructor']
    where = 'optim_wrapper.optimizer'
    if branch.optimizer is not None:
        cfg['optimizer'] = copy.deepcopy(branch.optimizer)
        where = 'optimizer'
    if branch.clip_grad is not None:
        cfg['clip_grad'] = copy.deepcopy(branch.clip_grad) or None
    for key, setting in FACTORS.items():
        factor = getattr(branch, key)
        if factor == 1:
            continue
        if cfg['optimizer'].get(setting) is None:
            raise ConfigError(f'{key} is a factor of {where}.{setting}, which '
                              'must be set')
        cfg['optimizer'][setting] *= factor
    return cfg
