from typing import Any, Dict, Mapping, Optional, Tuple

import torch
import torch.nn.functional as F
from mmpretrain.models.utils import ClsDataPreprocessor
from mmpretrain.structures import DataSample
from torch import Tensor

from mcod_plugin.errors import ConfigError
from mcod_plugin.registry import MODELS
from mcod_plugin.structures import (BatchDataSample, as_data_samples,
                                    batch_fields)
from .mix_alike import mix_alike


@MODELS.register_module()
class BatchDataPreprocessor(ClsDataPreprocessor):
    """MMPretrain's preprocessor, which treats a :class:`BatchDataSample` as
    a whole.

    Images and labels, and what batch augmentations such as Mixup make of
    them, are those of MMPretrain, to the bit. Batches of any other kind are
    left to it.

    In training, branches may have views of their own of the images, see
    :class:`BranchViews`. They are mixed alike: the same images, by the same
    ratio and at the same place.

    Args:
        *args: See ``mmpretrain.ClsDataPreprocessor``.
        **kwargs: See there.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        # MMEngine has an argument for it, which MMPretrain hides: a copy
        # from pinned memory need not wait for the step before.
        self._non_blocking = True
        # By size of the images. None is dropped: a recorded step goes on
        # reading those of its images.
        self._statistics: Dict[tuple, Tuple[Tensor, Tensor]] = {}

    def forward(self, data: dict, training: bool = False) -> dict:
        """Normalise the images, and mix them if that is asked for.

        Args:
            data (dict): ``inputs``, images ``(N, C, H, W)`` or, in training,
                a dict of them by branch, and ``data_samples``, or their labels
                as a tensor.
            training (bool): Whether batch augmentations apply.
                Defaults to False.

        Returns:
            dict: The same, on the device of the model.

        Raises:
            ConfigError: If there are views and it is no training, or views
                of several sizes are to be mixed.
        """
        if isinstance(data['inputs'], Mapping):
            if not training:
                raise ConfigError(
                    'inputs by branch are for training; validation and test '
                    'take one tensor of images (N, C, H, W) for all branches')
            return self._forward_views(data)
        samples = batch_fields(as_data_samples(data.get('data_samples')))
        if samples is None:
            return super().forward(data, training)
        inputs = self._normalize(data['inputs'])
        fields = {
            name: self.cast_data(value) if name.startswith('gt_') else value
            for name, value in samples.items()
        }
        if (self.to_onehot and 'gt_score' not in fields
                and 'gt_label' in fields):
            fields['gt_score'] = F.one_hot(fields['gt_label'],
                                           self.num_classes)
        if (training and self.batch_augments is not None
                and 'gt_score' in fields):
            inputs, fields['gt_score'] = self.batch_augments(
                inputs, fields['gt_score'])
        return dict(inputs=inputs, data_samples=BatchDataSample(**fields))

    def _forward_views(self, data: dict) -> dict:
        """Normalise the views of all branches, and mix them alike."""
        # One that several branches share counts once.
        views = {id(images): images for images in data['inputs'].values()}
        first, *others = views
        # With the first one the labels.
        found = self.forward(dict(data, inputs=views[first]))
        samples = found['data_samples']
        images = [
            found['inputs'], *(self._normalize(views[key]) for key in others)
        ]
        scores = _scores(samples)
        if self.batch_augments is not None and scores is not None:
            images, scores = mix_alike(self.batch_augments, images, scores)
            samples = _with_scores(samples, scores)
        views = dict(zip(views, images))
        return dict(
            inputs={
                name: views[id(given)]
                for name, given in data['inputs'].items()
            },
            data_samples=samples)

    def _normalize(self, inputs: Any) -> Any:
        """Images as the model takes them, on its device."""
        inputs = self.cast_data(inputs)
        if isinstance(inputs, Tensor) and inputs.dtype == torch.uint8:
            # Cheap while they are bytes, and most branches want it.
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        if self._is_by_pixels(inputs):
            return self._normalize_pixels(inputs)
        return super().forward(dict(inputs=inputs))['inputs']

    def _is_by_pixels(self, inputs: Any) -> bool:
        """Whether the channels of images come last in memory, and are as
        many as the statistics."""
        if not isinstance(inputs, Tensor) or not inputs.is_contiguous(
                memory_format=torch.channels_last):
            return False
        return not self._enable_normalize or all(
            value.numel() in (1, inputs.size(1))
            for value in (self.mean, self.std))

    def _normalize_pixels(self, inputs: Tensor) -> Tensor:
        """Normalise images whose channels come last in memory.

        On a CPU, a mean of three numbers that is broadcast over pixels of
        three costs many times as much as one of a whole image.
        """
        if self.to_rgb and inputs.size(1) == 3:
            inputs = inputs.flip(1)
        number, channels, height, width = inputs.shape
        if self._enable_normalize:
            mean, std = self._image_of_statistics(channels, height * width)
            # A copy of its own, in the precision of the result: no more
            # memory is needed than for that.
            dtype = torch.promote_types(torch.float32, mean.dtype)
            pixels = inputs.to(dtype, copy=True).permute(0, 2, 3, 1)
            pixels = pixels.reshape(number, -1).sub_(mean).div_(std)
            inputs = pixels.view(number, height, width,
                                 channels).permute(0, 3, 1, 2)
        else:
            inputs = inputs.float()
        if self.pad_size_divisor > 1:
            below, right = (-size % self.pad_size_divisor
                            for size in (height, width))
            inputs = F.pad(inputs, (0, right, 0, below), 'constant',
                           self.pad_value)
        return inputs

    def _image_of_statistics(self, channels: int,
                             pixels: int) -> Tuple[Tensor, Tensor]:
        """Mean and standard deviation of every value of an image."""
        key = (channels, pixels, self.mean.device, self.mean.dtype)
        if key not in self._statistics:
            self._statistics[key] = tuple(
                value.expand(channels, 1, 1).reshape(-1).repeat(pixels)
                for value in (self.mean, self.std))
        return self._statistics[key]


def _scores(samples: Any) -> Optional[Tensor]:
    """The scores ``(N, C)`` of a batch, if its samples have any."""
    fields = batch_fields(samples)
    if fields is not None:
        return fields.get('gt_score')
    if samples is None or not isinstance(
            samples[0], DataSample) or 'gt_score' not in samples[0]:
        return None
    return torch.stack([sample.gt_score for sample in samples])


def _with_scores(samples: Any, scores: Tensor) -> Any:
    """The samples of a batch with other scores."""
    fields = batch_fields(samples)
    if fields is not None:
        return BatchDataSample(**dict(fields, gt_score=scores))
    for sample, score in zip(samples, scores):
        sample.set_gt_score(score)
    return samples
