import logging
from contextlib import contextmanager
from inspect import signature
from typing import Any, Iterator, Mapping, Union

import torch
import torch.nn as nn
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.optim import AmpOptimWrapper, OptimWrapper

from mcod_plugin.config.parts import is_part
from mcod_plugin.errors import ConfigError
from mcod_plugin.registry import OPTIM_WRAPPERS
from mcod_plugin.utils.machine import cpu_has_bfloat16


@OPTIM_WRAPPERS.register_module()
class AutocastOptimWrapper(OptimWrapper):
    """Mixed precision in bfloat16, on CPUs as well.

    The forward pass runs under :class:`torch.autocast`; parameters, their
    gradients and the optimizer's state stay in float32. Numbers in bfloat16
    have the range of float32, so the loss is not scaled, and a step differs
    in nothing else from one in single precision.

    A CPU without instructions for bfloat16 would take many times as long for
    a step as in single precision, which it therefore keeps to; a line of the
    log says so.

    Args:
        dtype (str | torch.dtype): What autocast computes in: ``'bfloat16'``,
            or ``'auto'``, which is bfloat16 except on such a CPU.
            Defaults to ``'auto'``.
        **kwargs: See :class:`mmengine.optim.OptimWrapper`.

    Attributes:
        cast_dtype (torch.dtype): What it does compute in, bfloat16 or
            float32.

    Raises:
        ConfigError: If ``dtype`` is another one, or the GPU does not compute
            in bfloat16.

    Examples:
        >>> optim_wrapper = dict(
        ...     type='mcod_plugin.AutocastOptimWrapper',
        ...     optimizer=dict(type='SGD', lr=0.1))
    """

    def __init__(self,
                 dtype: Union[str, torch.dtype] = 'auto',
                 **kwargs) -> None:
        if dtype not in ('auto', 'bfloat16', torch.bfloat16):
            raise ConfigError(
                f'optim_wrapper.dtype must be bfloat16; got {dtype!r} (or '
                'auto, which is float32 on a CPU without bfloat16; for '
                'float16 use AmpOptimWrapper, which scales the loss)')
        self.cast_dtype = torch.bfloat16
        if not has_bfloat16():
            if get_device() != 'cpu':
                raise ConfigError(
                    'optim_wrapper.type mcod_plugin.AutocastOptimWrapper '
                    f'computes in bfloat16, which this {get_device()} device '
                    'does not support; use AmpOptimWrapper')
            way = ("it is emulated, as optim_wrapper.dtype asks for; 'auto' "
                   'is float32 here')
            if dtype == 'auto':
                self.cast_dtype = torch.float32
                way = ("training is in float32; optim_wrapper.dtype='bfloat16'"
                       ' would have it emulated, up to 10 times as slow')
            print_log(
                'Mixed precision (--amp, mcod_plugin.AutocastOptimWrapper): '
                f'this CPU has no instructions for bfloat16, so {way}.',
                logger='current',
                level=logging.WARNING)
        super().__init__(**kwargs)

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """The context of the forward pass.

        Args:
            model (nn.Module): The model, whose gradients are not synchronised
                while they are accumulated.
        """
        with super().optim_context(model), torch.autocast(
                get_device(),
                dtype=torch.bfloat16,
                enabled=self.cast_dtype == torch.bfloat16):
            yield


def has_bfloat16() -> bool:
    """Whether autocast to bfloat16 serves on the current device: on CPUs and
    GPUs that compute in it by themselves."""
    device = get_device()
    if device == 'cuda':
        supported = torch.cuda.is_bf16_supported
        # Emulated, it would be slower than single precision.
        if 'including_emulation' in signature(supported).parameters:
            return supported(including_emulation=False)
        return supported()
    return cpu_has_bfloat16() if device == 'cpu' else device == 'mps'


def use_amp(cfg: Any) -> None:
    """Have a config train in mixed precision: in bfloat16, or on a GPU without
    it in float16 with a scaled loss. A CPU without it trains in float32, and
    says so. A config that asks for float16 itself keeps it, which takes a GPU.
    An optimizer wrapper of another kind is an error."""
    wrapper = cfg.optim_wrapper
    dtype = str(wrapper.get('dtype')).rpartition('.')[2]
    if wrapper.get('type') is not None and not is_part(
            wrapper, (OptimWrapper, AmpOptimWrapper, AutocastOptimWrapper)):
        raise ConfigError(
            '--amp: optim_wrapper.type must be one of AmpOptimWrapper, '
            'OptimWrapper, mcod_plugin.AutocastOptimWrapper; got '
            f'{wrapper.type!r}')
    half = is_part(wrapper, AmpOptimWrapper) and dtype == 'float16'
    if half and get_device() == 'cpu':
        raise ConfigError('--amp: optim_wrapper.dtype float16 needs a GPU, '
                          'and this machine has none; leave it out')
    if dtype in ('None', 'auto', 'bfloat16'):
        # Whatever the device has.
        wrapper.pop('dtype', None)
    # Whether a CPU has it is told where it is used, maybe on another machine.
    if (get_device() == 'cpu' or has_bfloat16()) and not half:
        wrapper.type = 'mcod_plugin.AutocastOptimWrapper'
        # Settings of AmpOptimWrapper, for the scaling that is not needed.
        wrapper.pop('loss_scale', None)
        wrapper.pop('use_fsdp', None)
    else:
        wrapper.type = 'AmpOptimWrapper'
        wrapper.setdefault('loss_scale', 'dynamic')


def precision(optim_wrapper: Any) -> str:
    """What a network computes in while it is trained on this machine by an
    optimizer wrapper, or the config of one: ``'float32'``, ``'bfloat16'`` or
    ``'float16'``."""
    if isinstance(optim_wrapper, Mapping):
        ours = is_part(optim_wrapper, AutocastOptimWrapper)
        scaled = is_part(optim_wrapper, AmpOptimWrapper)
        dtype = optim_wrapper.get('dtype')
    else:
        ours = isinstance(optim_wrapper, AutocastOptimWrapper)
        scaled = isinstance(optim_wrapper, AmpOptimWrapper)
        dtype = getattr(optim_wrapper, 'cast_dtype', None)
    if ours and dtype in (None, 'auto'):
        return 'bfloat16' if has_bfloat16() else 'float32'
    if ours or scaled:
        # MMEngine casts to it unless it is told otherwise.
        return str(dtype or 'float16').rpartition('.')[2]
    return 'float32'
