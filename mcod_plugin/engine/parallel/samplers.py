"""Whose images a process sees."""
import math
from typing import Any

from mmengine.dataset import DefaultSampler, InfiniteSampler

from mcod_plugin.errors import ConfigError
from mcod_plugin.utils.mesh import branch_size, data_rank, data_size

__all__ = ['sample_by_data_rank']


def sample_by_data_rank(sampler: Any) -> None:
    """Have processes that share branches see the same images. The sampler of a
    data loader is changed if there are such processes, and must be one that
    can be."""
    if branch_size() == 1:
        return
    if type(sampler) not in (DefaultSampler, InfiniteSampler):
        raise ConfigError(
            f'parallel.branch={branch_size()} does not go with the sampler '
            f'{type(sampler).__name__} of a data loader; it goes with '
            'DefaultSampler and InfiniteSampler')
    sampler.rank, sampler.world_size = data_rank(), data_size()
    if isinstance(sampler, DefaultSampler):
        # As it works them out itself.
        images, size = len(sampler.dataset), data_size()
        if sampler.round_up:
            sampler.num_samples = math.ceil(images / size)
            sampler.total_size = sampler.num_samples * size
        else:
            sampler.num_samples = math.ceil((images - data_rank()) / size)
