"""An optimizer that updates all parameters in one kernel, where it can."""
import inspect
from typing import Any

import torch
from mmengine.registry import OPTIMIZERS

__all__ = ['WAYS', 'prefer_fused']

# The settings that choose how an update is computed.
WAYS = ('fused', 'foreach', 'differentiable', 'capturable')


def prefer_fused(cfg: dict, device: Any) -> dict:
    """The config of an optimizer that updates all parameters, which are on a
    device, in one kernel, by ``fused=True``. It stays as it is if it says
    itself how the update is computed, or the optimizer is none of PyTorch's or
    has no fused update there."""
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
