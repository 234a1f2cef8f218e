"""The sizes of the batches that a data loader gives."""
from typing import Any, Optional

import torch.nn as nn
from mmengine.dataset import InfiniteSampler
from torch.utils.data import DataLoader, IterableDataset

from mcod_plugin.errors import ConfigError
from mcod_plugin.models.utils.rehearsal import starved_norms

__all__ = ['check_batches', 'check_last_batch']


def check_batches(setting: str, loader: Any) -> None:
    """Raise if a data loader gives no batch at all; nothing else is looked
    at."""
    number = _number(loader)
    if number is None or len(loader):
        return
    if number == 0:
        raise ConfigError(f'{setting}: its data set is empty')
    raise ConfigError(
        f'{setting} gives no batch: its data set has {number} images for this '
        f'process, fewer than batch_size {loader.batch_sampler.batch_size}, '
        'and drop_last=True leaves them out; set a smaller batch_size')


def check_last_batch(loader: Any, cohort: nn.Module) -> None:
    """Raise if batch norm would be given a single value of each channel, in
    the last batch of the training or in all: for that PyTorch stops, in the
    middle of the first epoch."""
    number = _number(loader)
    size = getattr(getattr(loader, 'batch_sampler', None), 'batch_size', None)
    if not number or not isinstance(size, int):
        return
    dropped = getattr(loader.batch_sampler, 'drop_last', False)
    if size > 1 and (dropped or number % size != 1):
        return
    norms = starved_norms(cohort)
    if not norms:
        return
    which, advice = 'the last batch has', 'drop_last=True or another'
    if size == 1:
        which, advice = 'each batch has', 'a greater'
    raise ConfigError(
        f'train_dataloader: {which} one image ({number} in batches of '
        f'{size}), of which the batch norm {norms[0]} gets a single value of '
        f'each channel and cannot be trained; set {advice} batch_size')


def _number(loader: Any) -> Optional[int]:
    """How many images of an epoch are this process's; None if it is not
    known, or the epoch has no end."""
    if not isinstance(loader, DataLoader) or isinstance(
            loader.dataset, IterableDataset):
        return None
    sampler = getattr(loader.batch_sampler, 'sampler', None)
    if sampler is None or isinstance(sampler, InfiniteSampler):
        return None
    return len(sampler)
