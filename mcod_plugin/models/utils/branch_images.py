from typing import (Any, Callable, Collection, Dict, List, Mapping, Optional,
                    Tuple, Union)

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from mcod_plugin.errors import ConfigError
from .branch_settings import BranchSettings
from .renormalize import Renormalize, Statistics

__all__ = ['BranchImages', 'Inputs', 'check_shared', 'resize']

# The images of a batch (N, C, H, W), or views of them by branch.
Inputs = Union[Tensor, Mapping[str, Tensor]]


def resize(images: Tensor, size: Tuple[int, int]) -> Tensor:
    """Bring images ``(N, C, H, W)`` to a height and width, bilinearly and with
    antialiasing; those that have it stay as they are."""
    if tuple(images.shape[2:]) == tuple(size):
        return images
    return F.interpolate(
        images, size, mode='bilinear', align_corners=False, antialias=True)


class BranchImages(nn.Module):
    """From a batch to the images that each branch sees.

    They are normalised by the branch's values, brought to its size and put
    into its memory format. What several branches have in common is done
    once, and what changes nothing is not done. A branch that has a view of
    its own gets it in the same way, and one that changes its images in place
    a copy.

    Args:
        cohort (BranchSettings): What the images are when they come.
        branches (dict[str, BranchSettings]): What they are to be.
        memory_formats (dict[str, torch.memory_format]): The memory formats by
            branch.
    """

    def __init__(self, cohort: BranchSettings,
                 branches: Mapping[str, BranchSettings],
                 memory_formats: Mapping[str, torch.memory_format]) -> None:
        super().__init__()
        self.memory_formats = memory_formats
        self.sizes = {
            name: settings.input_size
            for name, settings in branches.items() if settings.resized
        }
        self._copied = [
            name for name, settings in branches.items() if settings.writes
        ]
        self.renormalize = nn.ModuleDict()
        given, made = _statistics(cohort), {}
        for name, settings in branches.items():
            wanted = _statistics(settings)
            if wanted != given:
                self.renormalize[name] = made.setdefault(
                    wanted, Renormalize(given, wanted))

    def forward(self,
                inputs: Inputs,
                names: Optional[Collection[str]] = None) -> Dict[str, Tensor]:
        """The images ``(N, C, h, w)`` of the branches that need them, by
        default all: from images ``(N, C, H, W)``, as the cohort's preprocessor
        gives them, or a view of them for each branch. There must be views of
        all branches, and of as many images."""
        views = isinstance(inputs, Mapping)
        if views:
            _check_views(inputs, list(self.memory_formats))
        found = {}
        done = {}
        for name, memory_format in self.memory_formats.items():
            if names is not None and name not in names:
                continue
            images = inputs[name] if views else inputs
            if name in self.renormalize:
                images = _once(done, self.renormalize[name], images)
            if name in self.sizes:
                images = _once(done, resize, images, self.sizes[name])
            images = _once(done, _to_format, images, memory_format)
            found[name] = images.clone() if name in self._copied else images
        return found


def check_shared(inputs: Inputs) -> None:
    """Raise unless all branches get the same images."""
    if isinstance(inputs, Mapping):
        raise ConfigError('inputs by branch are for the losses of a training; '
                          'a prediction takes one tensor of images (N, C, H, '
                          'W) for all branches')


def _check_views(inputs: Mapping[str, Tensor], names: List[str]) -> None:
    if set(inputs) != set(names):
        raise ConfigError(f'inputs by branch must be of {", ".join(names)}; '
                          f'got {", ".join(map(str, inputs)) or "none"}')
    sizes = {name: len(images) for name, images in inputs.items()}
    if len(set(sizes.values())) > 1:
        given = ', '.join(f'{name} {size}' for name, size in sizes.items())
        raise ConfigError('inputs by branch must be of the same images; got '
                          f'{given} images')


def _statistics(settings: BranchSettings) -> Statistics:
    """Mean and standard deviation; those of images that are not normalised
    are 0 and 1 in any channel."""
    return settings.mean or (0., ), settings.std or (1., )


def _once(done: Dict[tuple, Tensor], step: Callable, images: Tensor,
          *args: Any) -> Tensor:
    """Take a step unless it was taken on the same images."""
    key = (step, id(images), *args)
    if key not in done:
        done[key] = step(images, *args)
    return done[key]


def _to_format(images: Tensor, memory_format: torch.memory_format) -> Tensor:
    return images.contiguous(memory_format=memory_format)
