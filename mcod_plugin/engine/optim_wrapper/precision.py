from typing import Any, Mapping

from mmengine.optim import AmpOptimWrapper

from mcod_plugin.config.parts import is_part
from .autocast_optim_wrapper import AutocastOptimWrapper, has_bfloat16


def precision(optim_wrapper: Any) -> str:
    """What a network computes in while it is trained on this machine.

    Args:
        optim_wrapper (OptimWrapper | dict): What updates it, or the config
            of that.

    Returns:
        str: ``'float32'``, ``'bfloat16'`` or ``'float16'``.
    """
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
