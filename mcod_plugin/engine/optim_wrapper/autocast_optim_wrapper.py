from contextlib import contextmanager
from inspect import signature
from typing import Iterator, Union

import torch
import torch.nn as nn
from mmengine.device import get_device
from mmengine.optim import OptimWrapper

from mcod_plugin.errors import ConfigError
from mcod_plugin.registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class AutocastOptimWrapper(OptimWrapper):
    """Mixed precision in bfloat16, on CPUs as well.

    The forward pass runs under :class:`torch.autocast`; parameters, their
    gradients and the optimizer's state stay in float32. Numbers in bfloat16
    have the range of float32, so the loss is not scaled, and a step differs
    in nothing else from one in single precision.

    Args:
        dtype (str | torch.dtype): What autocast computes in; only
            ``'bfloat16'`` is allowed. Defaults to ``'bfloat16'``.
        **kwargs: See :class:`mmengine.optim.OptimWrapper`.

    Raises:
        ConfigError: If ``dtype`` is another one, or the GPU does not compute
            in bfloat16.

    Examples:
        >>> optim_wrapper = dict(
        ...     type='mcod_plugin.AutocastOptimWrapper',
        ...     optimizer=dict(type='SGD', lr=0.1))
    """

    def __init__(self,
                 dtype: Union[str, torch.dtype] = 'bfloat16',
                 **kwargs) -> None:
        if dtype not in ('bfloat16', torch.bfloat16):
            raise ConfigError(
                f'optim_wrapper.dtype must be bfloat16; got {dtype!r} (for '
                'float16 use AmpOptimWrapper, which scales the loss)')
        if not has_bfloat16():
            raise ConfigError(
                'optim_wrapper.type mcod_plugin.AutocastOptimWrapper computes '
                f'in bfloat16, which this {get_device()} device does not '
                'support; use AmpOptimWrapper')
        super().__init__(**kwargs)

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """The context of the forward pass.

        Args:
            model (nn.Module): The model, whose gradients are not synchronised
                while they are accumulated.
        """
        with super().optim_context(model), torch.autocast(
                get_device(), dtype=torch.bfloat16):
            yield


def has_bfloat16() -> bool:
    """Whether autocast to bfloat16 serves on the current device.

    Returns:
        bool: True for CPUs, and for GPUs that compute in it by themselves.
    """
    device = get_device()
    if device == 'cuda':
        supported = torch.cuda.is_bf16_supported
        # Emulated, it would be slower than single precision.
        if 'including_emulation' in signature(supported).parameters:
            return supported(including_emulation=False)
        return supported()
    return device in ('cpu', 'mps')
