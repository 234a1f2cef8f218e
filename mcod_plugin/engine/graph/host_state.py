import random
from typing import Any, List, Optional

import numpy as np
import torch
from mmengine.optim import OptimWrapper
from torch import nn

from .fingerprint import plain_settings

__all__ = ['HostState']


class HostState:
    """What a training step may change on the host, which a replay of it on a
    GPU does not.

    Args:
        model (MultiBackboneClassifier): The cohort.
        optim_wrapper (OptimWrapper): What updates it.
        device (torch.device): Where it is trained.
    """

    def __init__(self, model: nn.Module, optim_wrapper: OptimWrapper,
                 device: torch.device) -> None:
        self._model, self._optim_wrapper = model, optim_wrapper
        # On a CPU it is the generator of the device.
        self._draws_torch = device.type != 'cpu'
        self._ratio_due = model.ratio_due
        self._count = optim_wrapper._inner_count
        self._generators = self._random_state()
        self._settings = [plain_settings(module) for module in model.modules()]

    @property
    def gives_ratio(self) -> bool:
        """bool: Whether ``ratio_due`` was met since."""
        return self._ratio_due and not self._model.ratio_due

    def restore(self) -> Optional[str]:
        """Put all back, and tell what was changed and would have to be with
        every step; None if nothing was."""
        self._model.ratio_due = self._ratio_due
        self._optim_wrapper._inner_count = self._count
        reason = None
        if self._random_state() != self._generators:
            python, numpy, host = self._generators
            random.setstate(python)
            np.random.set_state(numpy)
            if host is not None:
                torch.set_rng_state(torch.tensor(host, dtype=torch.uint8))
            reason = 'it draws random numbers on the host'
        for (name, module), before in zip(self._model.named_modules(),
                                          self._settings):
            changed = dict(plain_settings(module)).items() - before
            if changed and name:
                key = min(key for key, _ in changed)
                reason = reason or f'it changes model.{name}.{key}'
                vars(module).update(before)
        return reason

    def _random_state(self) -> List[Any]:
        """The state of what draws random numbers on the host."""
        kind, keys, *rest = np.random.get_state()
        host = torch.get_rng_state().tolist() if self._draws_torch else None
        return [random.getstate(), (kind, tuple(keys), *rest), host]
