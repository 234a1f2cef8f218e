import random
from typing import Any, List, Sequence, Tuple

import numpy as np
import torch
from mmpretrain.models.utils.batch_augments import Mixup, RandomBatchAugment
from torch import Tensor

from mcod_plugin.errors import ConfigError

__all__ = ['mix_alike']


def mix_alike(augment: RandomBatchAugment, views: Sequence[Tensor],
              scores: Tensor) -> Tuple[List[Tensor], Tensor]:
    """Mix several views ``(N, C, H, W)`` of the same images, and their labels
    ``(N, num_classes)``, by the same random numbers.

    The augmentation, which may write into the images, is called for each of
    them and draws what it has drawn for the first one: which images are mixed,
    by which ratio and, as with CutMix, where. Afterwards the random generators
    are as after one call. Only Mixup takes views of several sizes, since it
    draws nothing that depends on the size.
    """
    sizes = sorted({tuple(images.shape[2:]) for images in views})
    if len(sizes) > 1 and any(
            type(one) not in (Mixup, type(None)) for one in augment.augments):
        raise ConfigError(
            'train_cfg.augments other than Mixup need views of one size for '
            f'all branches; got {", ".join(map(str, sizes))}; input_size of a '
            'branch resizes what was mixed')
    generators = _generators(views[0].device)
    states = [get(*place) for get, _, *place in generators]
    mixed = []
    for images in views:
        for state, (_, put, *place) in zip(states, generators):
            put(state, *place)
        images, mixed_scores = augment(images, scores.clone())
        mixed.append(images)
    return mixed, mixed_scores


def _generators(device: torch.device) -> List[Tuple[Any, ...]]:
    """What an augmentation may draw from, its device's generator, too: how to
    get the state and how to put it back, and where."""
    found = [(random.getstate, random.setstate),
             (np.random.get_state, np.random.set_state),
             (torch.get_rng_state, torch.set_rng_state)]
    if device.type == 'cuda':
        found.append(
            (torch.cuda.get_rng_state, torch.cuda.set_rng_state, device))
    return found
