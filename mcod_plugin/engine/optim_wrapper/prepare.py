"""What the config of an optimizer wrapper lacks on this machine."""
import inspect
import logging
from typing import Any

import torch
import torch.nn as nn
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.optim import AmpOptimWrapper
from mmengine.registry import OPTIMIZERS

from mcod_plugin.config.explain import unknown_type
from mcod_plugin.config.parts import is_part, type_name
from mcod_plugin.errors import ConfigError
from .branch_optim_wrapper_constructor import with_branch_constructor

__all__ = ['WAYS', 'prefer_fused', 'prepare_optim_wrapper']

# The settings that choose how an update is computed.
WAYS = ('fused', 'foreach', 'differentiable', 'capturable')


def prepare_optim_wrapper(cfg: dict, model: nn.Module,
                          cuda_graphs: bool) -> dict:
    """Check the config of an optimizer wrapper, and complete it.

    The optimizer is fused if it can be, and honours the factors of the
    branches.

    Args:
        cfg (dict): The config.
        model (nn.Module): The model, out of any wrapper.
        cuda_graphs (bool): Whether the model is compiled with CUDA graphs.

    Returns:
        dict: The config to build from.

    Raises:
        ConfigError: If there is no such optimizer, the wrapper cannot be used
            on this machine or with CUDA graphs, or the constructor knows no
            branches.
    """
    optimizer = cfg.get('optimizer')
    name = (optimizer or {}).get('type')
    with OPTIMIZERS.switch_scope_and_registry(None) as registry:
        # MMEngine calls an optimizer that is unknown None.
        if isinstance(name, str) and registry.get(name) is None:
            raise unknown_type('optim_wrapper.optimizer.type', name, registry)
    if name is not None and type_name(optimizer) == 'ZeroRedundancyOptimizer':
        # All processes have to take part in saving it, and one alone saves.
        raise ConfigError(
            'optim_wrapper.optimizer.type ZeroRedundancyOptimizer would wait '
            'for ever at the first checkpoint; name the optimizer that it '
            'wraps')
    scaled = is_part(cfg, AmpOptimWrapper)
    if scaled and get_device() == 'cpu':
        raise ConfigError(
            'optim_wrapper.type AmpOptimWrapper needs a GPU, and this machine '
            'has none; mcod_plugin.AutocastOptimWrapper is mixed precision on '
            'any device')
    counts = cfg.get('accumulative_counts', 1)
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


def _warn_of_joint_clipping(cfg: dict, model: nn.Module) -> None:
    clip = cfg.get('clip_grad')
    settings = getattr(model, 'branch_settings', {})
    trained = [name for name in settings if not settings[name].frozen]
    if clip and clip.get('type', 'norm') == 'norm' and len(trained) > 1:
        print_log(
            'optim_wrapper.clip_grad clips by the norm over all branches, so '
            'each depends on the others even if it is never distilled.',
            logger='current',
            level=logging.WARNING)


def prefer_fused(cfg: dict, device: Any) -> dict:
    """Have an optimizer update all parameters in one kernel, if it can.

    Args:
        cfg (dict): Config of an optimizer. One that says itself how the
            update is computed is left alone.
        device (str | torch.device): Where the parameters are.

    Returns:
        dict: The config with ``fused=True``, or the given one if the
        optimizer is none of PyTorch's or has no fused update on that device.
    """
    device = torch.device(device)
    if any(cfg.get(way) is not None for way in WAYS):
        return cfg
    with OPTIMIZERS.switch_scope_and_registry(None) as registry:
        kind = cfg.get('type')
        optimizer = registry.get(kind) if isinstance(kind, str) else kind
    if (not inspect.isclass(optimizer)
            or getattr(torch.optim, optimizer.__name__, None) is not optimizer
            or 'fused' not in inspect.signature(optimizer).parameters):
        return cfg
    fused = type(cfg)(cfg, fused=True)
    return fused if _runs(optimizer, fused, device) else cfg


def _runs(optimizer: type, cfg: dict, device: torch.device) -> bool:
    """Whether an optimizer takes a step on one number."""
    settings = {key: value for key, value in cfg.items() if key != 'type'}
    parameter = torch.nn.Parameter(torch.ones(1, device=device))
    parameter.grad = torch.ones_like(parameter)
    try:
        optimizer([parameter], **settings).step()
    except Exception:
        # Which device supports it differs from version to version. A mistake
        # in another setting is told when the optimizer itself is built.
        return False
    return True
