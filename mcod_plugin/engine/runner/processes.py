"""The processes of a run."""
import datetime
import os
from typing import Any, Dict

import timm.layers
import torch
import torch.distributed as dist
import torch.nn as nn
from mmengine.device import get_device
from mmengine.model import MMSeparateDistributedDataParallel
from mmengine.registry import MODEL_WRAPPERS
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from mcod_plugin.config.parts import type_name
from mcod_plugin.errors import ConfigError, check_choice, check_number
from mcod_plugin.utils.launchers import is_restarted

__all__ = [
    'check_wrapper', 'join_processes', 'share_batch_norm', 'wrap_for_processes'
]


def join_processes(dist_cfg: Dict[str, Any]) -> None:
    """Join the other processes, where MMEngine itself could not: on a machine
    without a GPU, for which it would ask, and after a restart. Of
    ``env_cfg.dist_cfg`` the ``timeout`` in seconds counts, and with GPUs, of
    which each process needs one, the ``backend``. For CPUs it is gloo."""
    device = get_device()
    if device == 'cuda':
        _choose_gpu()
    if device != 'cpu' and not is_restarted():
        return
    seconds = dist_cfg.get('timeout')
    settings = {} if seconds is None else dict(
        timeout=datetime.timedelta(seconds=seconds))
    store, rank, size = next(rendezvous('env://', **settings))
    # The store of torchrun may outlive a restart, with the addresses of the
    # processes that were lost.
    attempt = os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')
    dist.init_process_group(
        'gloo' if device == 'cpu' else dist_cfg.get('backend', 'nccl'),
        store=dist.PrefixStore(f'attempt_{attempt}', store),
        rank=rank,
        world_size=size,
        **settings)


def _choose_gpu() -> None:
    local_rank = int(os.environ['LOCAL_RANK'])
    if local_rank >= torch.cuda.device_count():
        raise ConfigError(
            f'process {local_rank} of this machine (LOCAL_RANK, from 0) has '
            f'no GPU: there are {torch.cuda.device_count()}; start as many '
            'processes as GPUs')
    torch.cuda.set_device(local_rank)


def wrap_for_processes(model: nn.Module,
                       settings: Any,
                       find_unused_parameters: bool,
                       group: Any = None) -> nn.Module:
    """Wrap a model for several processes, as MMEngine does, with or without
    GPUs.

    ``settings`` are the ``model_wrapper_cfg`` of the config, of
    ``MMDistributedDataParallel`` by default. For ``DistributedDataParallel``
    what it leaves out is ``broadcast_buffers=False`` and
    ``gradient_as_bucket_view=True``, and ``find_unused_parameters`` as given.
    The processes of the ``group``, all by default, have the same parameters.
    Refused are wrappers that split parameters between the processes or have no
    training step for the whole model, and a ``bucket_cap_mb`` that is no size.
    """
    settings = {'type': 'MMDistributedDataParallel', **(settings or {})}
    if 'FullySharded' in type_name(settings):
        raise ConfigError(
            f'model_wrapper_cfg.type {type_name(settings)} shards parameters, '
            'but branches and their checkpoints are whole; leave it out')
    kind = MODEL_WRAPPERS.get(settings['type'])
    if kind is not None and (not hasattr(kind, 'train_step') or issubclass(
            kind, MMSeparateDistributedDataParallel)):
        raise ConfigError(
            f'model_wrapper_cfg.type {type_name(settings)} does not train a '
            'model as a whole; leave it out, or use MMDistributedDataParallel '
            'or one derived from it')
    if kind is not None and issubclass(kind, DistributedDataParallel):
        on_cpu = get_device() == 'cpu'
        settings = {
            'device_ids': None if on_cpu else [int(os.environ['LOCAL_RANK'])],
            'broadcast_buffers': False,
            'find_unused_parameters': find_unused_parameters,
            # No second copy of all gradients.
            'gradient_as_bucket_view': True,
            **settings
        }
        if group is not None:
            settings['process_group'] = group
        size = settings.get('bucket_cap_mb')
        if size is not None:
            check_number(
                'model_wrapper_cfg.bucket_cap_mb', size, 0, exclusive=True)
    return MODEL_WRAPPERS.build(settings, default_args=dict(module=model))


def check_wrapper(model: nn.Module, compiles: bool,
                  accumulative_counts: int) -> None:
    """Raise unless the wrapper of several processes goes with how a run is
    trained, compiled or with so many batches in a step, in which PyTorch would
    fail at the first step."""
    if not isinstance(model, DistributedDataParallel):
        return
    # What is compiled ends in parts where buckets do, so that gradients are
    # on their way while the next ones are computed.
    least = dist._DEFAULT_FIRST_BUCKET_BYTES
    if compiles and model.bucket_bytes_cap < least:
        raise ConfigError('model_wrapper_cfg.bucket_cap_mb must be at least '
                          f'{least / 2**20:g} with compile; got '
                          f'{model.bucket_bytes_cap / 2**20:g}')
    if model.static_graph and accumulative_counts > 1:
        raise ConfigError(
            'model_wrapper_cfg.static_graph=True does not go with '
            f'optim_wrapper.accumulative_counts, {accumulative_counts}; leave '
            'it out')


def share_batch_norm(model: nn.Module, sync_bn: Any) -> nn.Module:
    """Have batch norm of a model, which is changed, take its statistics over
    all processes. ``sync_bn`` must be ``'torch'``, and the machine have a GPU.
    The layers of timm that hold a batch norm and an activation keep both,
    unlike by PyTorch's own conversion."""
    check_choice('sync_bn', sync_bn, ('torch', ))
    if get_device() == 'cpu':
        raise ConfigError("sync_bn='torch' needs GPUs, and this machine has "
                          'none; leave it out')
    return timm.layers.convert_sync_batchnorm(model)
