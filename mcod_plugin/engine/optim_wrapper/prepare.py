"""What the config of an optimizer wrapper lacks on this machine."""
import logging

import torch.nn as nn
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.optim import AmpOptimWrapper
from mmengine.registry import OPTIMIZERS

from mcod_plugin.config.explain import unknown_type
from mcod_plugin.config.parts import is_part, type_name
from mcod_plugin.errors import ConfigError, check_integer
from .branch_optim_wrapper_constructor import with_branch_constructor
from .clip_grad import check_clip_grad, clipped_together
from .fused import prefer_fused

__all__ = ['prepare_optim_wrapper']


def prepare_optim_wrapper(cfg: dict, model: nn.Module,
                          cuda_graphs: bool) -> dict:
    """Check the config of an optimizer wrapper for a model, out of any
    wrapper, and complete it: the optimizer is fused if it can be, and honours
    what the branches have of their own. ``cuda_graphs`` says whether the model
    is compiled with CUDA graphs."""
    optimizer = cfg.get('optimizer')
    if optimizer is None and cfg.get('constructor') is None:
        raise ConfigError('optim_wrapper.optimizer is missing: it is for all '
                          'that has no optimizer of its own')
    _check_optimizer('optim_wrapper.optimizer', optimizer or {})
    if cfg.get('clip_grad') is not None:
        check_clip_grad('optim_wrapper.clip_grad', cfg['clip_grad'])
    for name, own in getattr(model, 'branch_settings', {}).items():
        if own.optimizer:
            _check_optimizer(f'model.branches.{name}.optimizer', own.optimizer)
        if own.clip_grad:
            check_clip_grad(f'model.branches.{name}.clip_grad', own.clip_grad)
    scaled = is_part(cfg, AmpOptimWrapper)
    if scaled and get_device() == 'cpu':
        raise ConfigError(
            'optim_wrapper.type AmpOptimWrapper needs a GPU, and this machine '
            'has none; mcod_plugin.AutocastOptimWrapper is mixed precision on '
            'any device')
    counts = cfg.get('accumulative_counts', 1)
    check_integer('optim_wrapper.accumulative_counts', counts)
    if counts > 1 and cuda_graphs:
        raise ConfigError(
            'compile with CUDA graphs does not go with optim_wrapper.'
            f'accumulative_counts, {counts}: a replay overwrites the '
            'gradients that are to be added to; set compile=True')
    # A fused optimizer undoes the loss scaling itself, and would fail on the
    # checkpoint of a run in which it was not fused.
    if isinstance(optimizer, dict) and not scaled:
        cfg = type(cfg)(cfg, optimizer=prefer_fused(optimizer, get_device()))
    _warn_of_joint_clipping(cfg, model)
    return with_branch_constructor(cfg, model)


def _check_optimizer(setting: str, cfg: dict) -> None:
    name = cfg.get('type')
    with OPTIMIZERS.switch_scope_and_registry(None) as registry:
        # MMEngine calls an optimizer that is unknown None.
        if isinstance(name, str) and registry.get(name) is None:
            raise unknown_type(f'{setting}.type', name, registry)
    if name is not None and type_name(cfg) == 'ZeroRedundancyOptimizer':
        # All processes have to take part in saving it, and one alone saves.
        raise ConfigError(
            f'{setting}.type ZeroRedundancyOptimizer would wait for ever at '
            'the first checkpoint; name the optimizer that it wraps')


def _warn_of_joint_clipping(cfg: dict, model: nn.Module) -> None:
    together = clipped_together(cfg.get('clip_grad'), model)
    if len(together) > 1:
        trained = [
            name for name, settings in model.branch_settings.items()
            if not settings.frozen
        ]
        names = 'all branches' if together == trained else ', '.join(together)
        print_log(
            f'optim_wrapper.clip_grad clips by the norm over {names}, so each '
            'depends on the others even if it is never distilled; a branch '
            'with a clip_grad of its own does not.',
            logger='current',
            level=logging.WARNING)
