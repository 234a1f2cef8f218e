from typing import Dict, List, Optional, Union

import torch.nn as nn
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper

from mcod_plugin.errors import ConfigError
from mcod_plugin.registry import OPTIM_WRAPPER_CONSTRUCTORS

__all__ = ['BranchOptimWrapperConstructor', 'with_branch_constructor']

NAME = 'mcod_plugin.BranchOptimWrapperConstructor'

# The factors of a branch, and what each of them is a factor of.
FACTORS = dict(lr_mult='lr', decay_mult='weight_decay')


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class BranchOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """MMEngine's constructor, which also honours ``lr_mult`` and
    ``decay_mult`` of a cohort's branches.

    They multiply what ``paramwise_cfg`` says for a parameter: with
    ``norm_decay_mult=0`` norm layers stay without decay, and ``lr_mult`` of a
    matching ``custom_keys`` is multiplied by that of the branch. Parameters
    that end up with equal settings share one group, so that a fused optimizer
    updates them together.

    :class:`CohortRunner` takes it by itself where a branch has a factor;
    other runners need its name in ``optim_wrapper.constructor``.

    Schedulers work on each group by itself. Those that multiply keep the
    ratio of the branches, such as ``MultiStepLR``, ``LinearLR``, or
    ``CosineAnnealingLR`` with ``eta_min_ratio``; a value that is stated,
    such as ``eta_min`` or that of ``OneCycleLR``, is the same for all.

    Args:
        optim_wrapper_cfg (dict): Config of the wrapper, with that of the
            ``optimizer``.
        paramwise_cfg (dict, optional): See
            ``mmengine.optim.DefaultOptimWrapperConstructor``.
            Defaults to None.

    Examples:
        >>> optim_wrapper = dict(
        ...     constructor='mcod_plugin.BranchOptimWrapperConstructor',
        ...     optimizer=dict(type='SGD', lr=0.1, weight_decay=5e-4))
    """

    def __init__(self,
                 optim_wrapper_cfg: dict,
                 paramwise_cfg: Optional[dict] = None) -> None:
        # Without any, MMEngine would not ask for groups.
        super().__init__(optim_wrapper_cfg, paramwise_cfg
                         or dict(custom_keys={}))

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the optimizer of a model and its wrapper.

        Args:
            model (nn.Module): The cohort, maybe in the wrapper of distributed
                training.

        Returns:
            OptimWrapper: The wrapper.

        Raises:
            ConfigError: If a branch has a factor of what the optimizer's
                config does not state.
        """
        self._factors = {
            f'branches.{name}': factors
            for name, factors in branch_factors(
                getattr(model, 'module', model)).items()
        }
        for branch, factors in self._factors.items():
            for key in factors:
                if self.optimizer_cfg.get(FACTORS[key]) is None:
                    raise ConfigError(
                        f'model.{branch}.{key} is a factor of optim_wrapper.'
                        f'optimizer.{FACTORS[key]}, which must be set')
        return super().__call__(model)

    def add_params(self,
                   params: List[dict],
                   module: nn.Module,
                   prefix: str = '',
                   is_dcn_module: Optional[Union[int, float]] = None) -> None:
        """Add the parameters of a module to the groups.

        Args:
            params (list[dict]): The groups, which are changed.
            module (nn.Module): The module.
            prefix (str): Its name within the model; that of the model itself
                is empty. Defaults to ``''``.
            is_dcn_module (int | float, optional): See MMEngine.
                Defaults to None.
        """
        if not any(value.requires_grad for value in module.parameters()):
            # MMEngine would warn of every parameter of a frozen branch.
            return
        first = len(params)
        super().add_params(params, module, prefix, is_dcn_module)
        for key, factor in self._factors.get(prefix, {}).items():
            kind = FACTORS[key]
            for group in params[first:]:
                group[kind] = factor * group.get(kind,
                                                 self.optimizer_cfg[kind])
        if not prefix:
            params[:] = merge_groups(params)


def merge_groups(groups: List[dict]) -> List[dict]:
    """Merge an optimizer's groups of equal settings.

    Args:
        groups (list[dict]): The groups; their parameters are ``params``.

    Returns:
        list[dict]: The groups, in the order in which their settings first
        appear.
    """
    merged: List[dict] = []
    for group in groups:
        for other in merged:
            if {**group, 'params': 0} == {**other, 'params': 0}:
                other['params'] = other['params'] + group['params']
                break
        else:
            merged.append(dict(group))
    return merged


def branch_factors(model: nn.Module) -> Dict[str, Dict[str, float]]:
    """Factors of learning rate and weight decay by branch.

    Args:
        model (nn.Module): A cohort; any other model has none.

    Returns:
        dict[str, dict[str, float]]: ``lr_mult`` and ``decay_mult`` where they
        are not 1, of the branches that have one.
    """
    found = {
        name: {
            key: getattr(settings, key)
            for key in FACTORS if getattr(settings, key) != 1
        }
        for name, settings in getattr(model, 'branch_settings', {}).items()
    }
    return {name: factors for name, factors in found.items() if factors}


def with_branch_constructor(cfg: dict, model: nn.Module) -> dict:
    """Have the factors of a cohort's branches honoured.

    Args:
        cfg (dict): Config of an optimizer wrapper.
        model (nn.Module): The model.

    Returns:
        dict: The config with the constructor for it; the given one if no
        branch has a factor.

    Raises:
        ConfigError: If the config names a constructor that knows no factors.
    """
    factors = branch_factors(model)
    if not factors:
        return cfg
    given = cfg.get('constructor') or NAME
    found = OPTIM_WRAPPER_CONSTRUCTORS.get(given) if isinstance(
        given, str) else given
    if not issubclass(found or object, BranchOptimWrapperConstructor):
        name, keys = next(iter(factors.items()))
        raise ConfigError(
            f'model.branches.{name}.{next(iter(keys))} needs '
            f'optim_wrapper.constructor {NAME}; got {given!r}')
    return type(cfg)(cfg, constructor=given)
