from typing import Any, Mapping

from .autocast_optim_wrapper import has_bfloat16


def precision(optim_wrapper: Any) -> str:
    """What a network computes in while it is trained on this machine.

    Args:
        optim_wrapper (OptimWrapper | dict): What updates it, or the config
            of that.

    Returns:
        str: ``'float32'``, ``'bfloat16'`` or ``'float16'``.
    """
    if isinstance(optim_wrapper, Mapping):
        kind = optim_wrapper.get('type')
        kind = getattr(kind, '__name__', str(kind))
        dtype = optim_wrapper.get('dtype')
    else:
        kind = type(optim_wrapper).__name__
        dtype = getattr(optim_wrapper, 'cast_dtype', None)
    if kind.endswith('AutocastOptimWrapper') and dtype in (None, 'auto'):
        return 'bfloat16' if has_bfloat16() else 'float32'
    if kind.endswith(('AutocastOptimWrapper', 'AmpOptimWrapper')):
        # MMEngine casts to it unless it is told otherwise.
        return str(dtype or 'float16').rpartition('.')[2]
    return 'float32'
