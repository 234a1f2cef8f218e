import operator
from typing import Any, Dict, List, Optional, Union

import torch
from mmpretrain.structures import DataSample
from torch import Tensor


class BatchDataSample:
    """What is known of the images of a batch, one tensor for each field.

    It stands where MMPretrain has a list of ``DataSample``, and costs as much
    for a thousand images as for one. Code that knows it works on
    :attr:`fields`. To all other code it is that list: the sample of an image
    is made when it is asked for, and kept, so that changes to it last.

    Args:
        **fields (Tensor): Tensors ``(N, ...)``, named as the fields of a
            ``DataSample``: ``gt_label`` ``(N, )``, ``gt_score`` ``(N, C)``
            and so on. ``sample_idx`` ``(N, )`` is an image's number in its
            data set.

    Attributes:
        fields (dict[str, Tensor]): The fields by name.
        touched (bool): Whether the sample of any image was asked for. From
            then on, the samples and not :attr:`fields` are up to date.

    Examples:
        >>> batch = BatchDataSample(gt_label=torch.tensor([3, 1]))
        >>> batch.fields['gt_label']
        tensor([3, 1])
        >>> [sample.gt_label for sample in batch]
        [tensor([3]), tensor([1])]
    """

    def __init__(self, **fields: Tensor) -> None:
        sizes = {len(value) for value in fields.values()}
        if len(sizes) != 1:
            raise ValueError('the fields of a batch must have the same '
                             f'length; got {sorted(sizes)}')
        self.fields: Dict[str, Tensor] = fields
        self._size = sizes.pop()
        self._samples: Dict[int, DataSample] = {}

    @property
    def touched(self) -> bool:
        return bool(self._samples)

    def __len__(self) -> int:
        return self._size

    def __getitem__(
            self, index: Union[int, slice]) -> Union[DataSample, List]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._size))]
        # It may be a tensor or an array of one element.
        index = operator.index(index)
        number = index + self._size if index < 0 else index
        # IndexError is what ends an iteration, too.
        if not 0 <= number < self._size:
            raise IndexError(f'there are {self._size} samples; got {index}')
        if number not in self._samples:
            self._samples[number] = self._make(number)
        return self._samples[number]

    def _make(self, number: int) -> DataSample:
        sample = DataSample()
        for name, value in self.fields.items():
            # A view would be pickled together with the whole batch.
            row = value[number].clone()
            if name == 'sample_idx':
                sample.set_metainfo({name: int(row)})
            elif name in ('gt_score', 'pred_score'):
                # These note the number of classes as well.
                getattr(sample, f'set_{name}')(row)
            else:
                # A label is a tensor of one element in MMPretrain.
                sample.set_field(row[None] if row.ndim == 0 else row, name)
        return sample

    def __repr__(self) -> str:
        shapes = ', '.join(f'{name}={tuple(value.shape)}'
                           for name, value in self.fields.items())
        return f'{type(self).__name__}({shapes})'


def as_data_samples(labels: Any) -> Any:
    """Labels as annotations of images.

    Args:
        labels (Tensor | BatchDataSample | Sequence[DataSample]): Labels
            ``(N, )``, or probabilities ``(N, C)``: of images of several
            labels 1 for each that an image has. Or annotations, which stay
            as they are.

    Returns:
        BatchDataSample | Sequence[DataSample]: The annotations.

    Raises:
        ValueError: If a tensor is neither.
    """
    if not isinstance(labels, Tensor):
        return labels
    whole = not (labels.is_floating_point() or labels.is_complex()
                 or labels.dtype == torch.bool)
    if labels.ndim == 1 and whole:
        return BatchDataSample(gt_label=labels.long())
    if labels.ndim == 2:
        return BatchDataSample(
            gt_score=labels if labels.is_floating_point() else labels.float())
    raise ValueError('labels must be integers (N, ), or probabilities (N, C); '
                     f'got {labels.dtype} {tuple(labels.shape)}')


def batch_fields(data_samples: Any) -> Optional[Dict[str, Tensor]]:
    """What is known of a batch of images, as one tensor for each field. None
    if it is another kind of list, or the sample of an image was asked for and
    may have changed since: then the samples tell."""
    if isinstance(data_samples, BatchDataSample) and not data_samples.touched:
        return data_samples.fields
    return None
