from typing import Any, Dict, Optional

from mmengine.optim import OptimWrapper
from torch import Tensor

from .branch_optimizer import BranchOptimizer

__all__ = ['GradientNorms']


class GradientNorms:
    """Keeps the norms of gradients that are clipped on the device, until they
    are read.

    MMEngine moves the norm of every step to the host at once, which then
    waits for the whole step.

    Args:
        optim_wrapper (OptimWrapper): What clips them, which is changed: it
            hands its norms over, and logs them no longer.

    Attributes:
        values (dict[str, Tensor]): The norms of the last step, before they
            were clipped, by the name in the log.
    """

    def __init__(self, optim_wrapper: OptimWrapper) -> None:
        self.values: Dict[str, Tensor] = {}
        if optim_wrapper.clip_grad_kwargs:
            self._clip = optim_wrapper.clip_func
            self._name = optim_wrapper.grad_name
            # MMEngine passes over what gives no norm, as clipping by value.
            optim_wrapper.clip_func = self
        if isinstance(optim_wrapper.optimizer, BranchOptimizer):
            optim_wrapper.optimizer.gradient_norms = self
        optim_wrapper.gradient_norms = self

    @classmethod
    def of(cls, optim_wrapper: Any) -> Optional['GradientNorms']:
        """Those of an optimizer wrapper; None if it logs its norms by itself,
        or clips nothing."""
        return getattr(optim_wrapper, 'gradient_norms', None)

    @classmethod
    def defer(cls, optim_wrapper: Any) -> None:
        """Have an optimizer wrapper hand its norms over, if it clips."""
        if (isinstance(optim_wrapper, OptimWrapper)
                and (optim_wrapper.clip_grad_kwargs
                     or isinstance(optim_wrapper.optimizer, BranchOptimizer))
                and cls.of(optim_wrapper) is None):
            cls(optim_wrapper)

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        """Clip gradients; see :func:`torch.nn.utils.clip_grad_norm_`."""
        norm = self._clip(*args, **kwargs)
        if norm is not None:
            self.values[self._name] = norm.detach()

    def take(self) -> Dict[str, Tensor]:
        """The norms that have not been taken yet, as scalars by the name in
        the log."""
        values, self.values = self.values, {}
        return values
