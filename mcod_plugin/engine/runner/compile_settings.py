import inspect
from typing import Any, List, Mapping, Optional

import torch
import torch.nn as nn

from mcod_plugin.errors import ConfigError, nearest, one_line


def compile_settings(setting: Any) -> Optional[dict]:
    """Arguments of :func:`torch.compile` from the setting ``compile``; None if
    nothing is to be compiled."""
    if setting is None or setting is False:
        return None
    if setting is not True and not isinstance(setting, dict):
        raise ConfigError('compile must be True, False or a dict of arguments '
                          f'of torch.compile; got {setting!r}')
    settings = {} if setting is True else dict(setting)
    known = _arguments()
    for name in settings:
        if name not in known:
            raise ConfigError(
                f'compile.{name} is no argument of torch.compile; ' +
                (nearest(name, known) or f'it takes {", ".join(known)}'))
    backend = settings.get('backend', 'inductor')
    backends = torch.compiler.list_backends(exclude_tags=())
    if not callable(backend) and backend not in backends:
        raise ConfigError(
            f'compile.backend {backend!r} is no backend of torch.compile; ' +
            (nearest(str(backend), backends)
             or f'it has {", ".join(backends)}'))
    try:
        # It checks them, and compiles nothing before the first call.
        torch.compile(_nothing, **settings)
    except Exception as error:
        # Of options it knows some hundreds, and lists them all.
        reason = one_line(error).partition(', known options are')[0]
        raise ConfigError(f'compile: {reason}') from error
    if _has_graphs(settings) and not hasattr(torch.compiler,
                                             'cudagraph_mark_step_begin'):
        raise ConfigError(
            'compile: CUDA graphs of several branches need PyTorch 2.2 or '
            f'newer; got {torch.__version__}; use another mode')
    return settings


def uses_cuda_graphs(setting: Any) -> bool:
    """Whether ``compile`` asks for CUDA graphs, whose replays write to the
    same memory each time."""
    return _has_graphs(compile_settings(setting) or {})


def _has_graphs(settings: dict) -> bool:
    options = settings.get('options') or {}
    return (settings.get('mode') in ('reduce-overhead', 'max-autotune')
            or bool(options.get('triton.cudagraphs')))


def compile_branches(branches: Mapping[str, nn.Module],
                     settings: dict) -> None:
    """Compile branches, each by itself, by arguments of
    :func:`torch.compile`."""
    # Branches of one class have their code in common, but must not share its
    # limit of versions: what is beyond it runs uncompiled.
    if 'isolate_recompiles' in _arguments():
        settings = {'isolate_recompiles': True, **settings}
    else:
        limits = torch._dynamo.config
        limits.cache_size_limit = max(limits.cache_size_limit,
                                      8 * len(branches))
    for branch in branches.values():
        branch.compile(**settings)


def _arguments() -> List[str]:
    """Names of the arguments of :func:`torch.compile`."""
    return [
        name for name in inspect.signature(torch.compile).parameters
        if name != 'model'
    ]


def _nothing() -> None:
    pass
