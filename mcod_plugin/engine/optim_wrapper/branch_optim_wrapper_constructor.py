import inspect
from typing import Any, Dict, List, Optional, Set, Union

import torch.nn as nn
from mmengine.device import get_device
from mmengine.optim import (AmpOptimWrapper, DefaultOptimWrapperConstructor,
                            OptimWrapper)
from mmengine.registry import OPTIMIZERS
from torch.optim import Optimizer

from mcod_plugin.config.parts import is_part, walk
from mcod_plugin.errors import ConfigError
from mcod_plugin.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS
from mcod_plugin.utils.checkpoint import branch_of
from .branch_optimizer import BranchOptimizer
from .fused import prefer_fused

__all__ = ['BranchOptimWrapperConstructor', 'with_branch_constructor']

NAME = 'mcod_plugin.BranchOptimWrapperConstructor'

# The factors of a branch, and what each of them is a factor of.
FACTORS = dict(lr_mult='lr', decay_mult='weight_decay')
# What else a branch may have of its own.
OWN = ('optimizer', 'clip_grad')


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class BranchOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """MMEngine's constructor, which also honours ``lr_mult``, ``decay_mult``,
    ``optimizer`` and ``clip_grad`` of a cohort's branches.

    A branch with an ``optimizer`` is updated by that; all others, teacher and
    loss by ``optim_wrapper.optimizer``. ``optim_wrapper.clip_grad`` clips by
    the norm over all parameters but those of branches with a ``clip_grad`` of
    their own. Both, and cohorts whose loss is scaled, are the matter of a
    :class:`BranchOptimizer`; elsewhere the optimizer is a plain one.

    The factors multiply what ``paramwise_cfg`` says for a parameter: with
    ``norm_decay_mult=0`` norm layers stay without decay, and ``lr_mult`` of a
    matching ``custom_keys`` is multiplied by that of the branch. Parameters
    that end up with equal settings share one group, so that a fused optimizer
    updates them together.

    ``paramwise_cfg`` holds for all branches: its factors are of the rate and
    the decay of the optimizer that a parameter has.

    :class:`CohortRunner` takes it by itself where it is needed; other runners
    need its name in ``optim_wrapper.constructor``.

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
        """Build the optimizers of a model and their wrapper.

        Args:
            model (nn.Module): The cohort, maybe in the wrapper of distributed
                training.

        Returns:
            OptimWrapper: The wrapper.

        Raises:
            ConfigError: If a branch has a factor of what the optimizer's
                config does not state.
        """
        model = getattr(model, 'module', model)
        wrapper_cfg = dict(self.optim_wrapper_cfg)
        scaled = is_part(wrapper_cfg, AmpOptimWrapper)
        settings = getattr(model, 'branch_settings', {})
        self._factors = {
            f'branches.{name}': factors
            for name, factors in branch_factors(model).items()
        }
        self._configs = {
            f'branches.{name}': own.optimizer if scaled else prefer_fused(
                own.optimizer, get_device())
            for name, own in settings.items() if own.optimizer
        }
        self._check()
        self._groups: Dict[str, List[dict]] = {}
        self.add_params(self._groups.setdefault('', []), model)
        self._drop_repeated()
        optimizers = {
            prefix.rpartition('.')[2]: build_optimizer(
                self._configs.get(prefix, self.optimizer_cfg), groups)
            for prefix, groups in self._groups.items() if groups
        }
        parts = trained_parts(model)
        clips = {
            name: own.clip_grad
            for name, own in settings.items()
            # The parameters may be in another process.
            if own.clip_grad is not None and name in parts
        }
        optimizer = next(iter(optimizers.values()))
        if self._configs or clips or scaled and len(parts) > 1:
            optimizer = BranchOptimizer(optimizers, parts,
                                        wrapper_cfg.pop('clip_grad', None),
                                        clips)
        wrapper_cfg.setdefault('type', 'OptimWrapper')
        return OPTIM_WRAPPERS.build(
            wrapper_cfg, default_args=dict(optimizer=optimizer))

    def _check(self) -> None:
        """Raise if a factor is of nothing."""
        for prefix in {**self._factors, **self._configs}:
            cfg = self._configs.get(prefix, self.optimizer_cfg)
            setting = 'optim_wrapper.optimizer' if cfg is self.optimizer_cfg \
                else f'model.{prefix}.optimizer'
            factors = [
                (f'model.{prefix}.{key}', FACTORS[key])
                for key in self._factors.get(prefix, ())
            ]
            if prefix in self._configs:
                factors += [(f'optim_wrapper.paramwise_cfg.{key}', kind)
                            for key, kind in named_factors(self.paramwise_cfg)]
            for factor, kind in factors:
                if cfg.get(kind) is None:
                    raise ConfigError(f'{factor} is a factor of {setting}.'
                                      f'{kind}, which must be set')

    def _drop_repeated(self) -> None:
        """Leave a parameter that modules share in the first group that has
        it: it is to be updated once."""
        seen: Set[int] = set()
        for groups in self._groups.values():
            for group in groups:
                group['params'] = [
                    value for value in group['params']
                    if not (id(value) in seen or seen.add(id(value)))
                ]
            groups[:] = [group for group in groups if group['params']]

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
        cfg = self._configs.get(prefix)
        if cfg is not None:
            params = self._groups.setdefault(prefix, [])
        cohort = self.base_lr, self.base_wd
        if cfg is not None:
            self.base_lr, self.base_wd = cfg.get('lr'), cfg.get('weight_decay')
        first = len(params)
        super().add_params(params, module, prefix, is_dcn_module)
        for key, factor in self._factors.get(prefix, {}).items():
            kind = FACTORS[key]
            for group in params[first:]:
                group[kind] = factor * group.get(
                    kind, (cfg or self.optimizer_cfg)[kind])
        self.base_lr, self.base_wd = cohort
        if not prefix or cfg is not None:
            params[:] = merge_groups(params)


def merge_groups(groups: List[dict]) -> List[dict]:
    """Merge an optimizer's groups of equal settings, in the order in which
    these first appear."""
    merged: List[dict] = []
    for group in groups:
        for other in merged:
            if {**group, 'params': 0} == {**other, 'params': 0}:
                other['params'] = other['params'] + group['params']
                break
        else:
            merged.append(dict(group))
    return merged


def build_optimizer(cfg: dict, groups: List[dict]) -> Optimizer:
    """Build an optimizer from its config and the groups of its parameters."""
    kind = cfg['type']
    if isinstance(kind, str):
        with OPTIMIZERS.switch_scope_and_registry(None) as registry:
            kind = registry.get(kind)
    # Not all call it params.
    name = next(iter(inspect.signature(kind).parameters))
    return OPTIMIZERS.build({**cfg, name: groups})


def trained_parts(model: nn.Module) -> Dict[str, List[nn.Parameter]]:
    """The parameters of a model that are trained: by branch, and under the
    empty name those of no branch."""
    found: Dict[str, List[nn.Parameter]] = {}
    for name, value in model.named_parameters():
        if value.requires_grad:
            found.setdefault(branch_of(name), []).append(value)
    return found


def named_factors(paramwise_cfg: Any) -> List[tuple]:
    """The factors that ``paramwise_cfg`` names: of each its dotted key, and
    whether it is of ``'lr'`` or of ``'weight_decay'``."""
    return [(path, 'lr' if path.endswith('lr_mult') else 'weight_decay')
            for path, _ in walk(paramwise_cfg)
            if path.endswith(('lr_mult', 'decay_mult'))]


def branch_factors(model: nn.Module) -> Dict[str, Dict[str, float]]:
    """``lr_mult`` and ``decay_mult`` of a cohort's branches where they are not
    1; any other model has none."""
    found = {
        name: {
            key: getattr(settings, key)
            for key in FACTORS if getattr(settings, key) != 1
        }
        for name, settings in getattr(model, 'branch_settings', {}).items()
    }
    return {name: factors for name, factors in found.items() if factors}


def with_branch_constructor(cfg: dict, model: nn.Module) -> dict:
    """The config of an optimizer wrapper with the constructor that honours
    what the branches have of their own; the given one if that is not needed. A
    constructor that knows no branches is an error then."""
    settings = getattr(model, 'branch_settings', {})
    needed = [
        f'{name}.{key}' for name, factors in branch_factors(model).items()
        for key in factors
    ]
    needed += [
        f'{name}.{key}' for name, own in settings.items() for key in OWN
        if getattr(own, key) is not None
    ]
    if not needed:
        # A branch whose gradients overflow has to be told from the others.
        several = is_part(cfg, AmpOptimWrapper) and len(settings) > 1
        if cfg.get('constructor') or not several:
            return cfg
        return type(cfg)(cfg, constructor=NAME)
    given = cfg.get('constructor') or NAME
    found = OPTIM_WRAPPER_CONSTRUCTORS.get(given) if isinstance(
        given, str) else given
    if not issubclass(found or object, BranchOptimWrapperConstructor):
        raise ConfigError(f'model.branches.{needed[0]} needs '
                          f'optim_wrapper.constructor {NAME}; got {given!r}')
    return type(cfg)(cfg, constructor=given)
