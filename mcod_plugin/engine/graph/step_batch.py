from typing import Any, Dict, Mapping, Optional, Union

import torch
from torch import Tensor

from mcod_plugin.structures import BatchDataSample, batch_fields

__all__ = ['StepBatch']


class StepBatch:
    """The tensors of a preprocessed batch, which a recorded step reads.

    Args:
        inputs (Tensor | dict[str, Tensor]): Images ``(N, C, H, W)``, those of
            all branches or by branch.
        fields (dict[str, Tensor]): What is known of the images, each
            ``(N, ...)``, named as in :class:`BatchDataSample`.
    """

    def __init__(self, inputs: Union[Tensor, Mapping[str, Tensor]],
                 fields: Mapping[str, Tensor]) -> None:
        self.inputs = inputs
        self.fields = dict(fields)

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Optional['StepBatch']:
        """The tensors of what a preprocessor gives.

        Args:
            data (dict): ``inputs`` and ``data_samples``.

        Returns:
            StepBatch | None: None if the samples of the images have fields
            that cannot be stacked, such as labels of different number.
        """
        samples = data['data_samples']
        fields = batch_fields(samples)
        if fields is None:
            fields = _stacked(samples)
        else:
            # An image's number in its data set stays on the host.
            fields = {
                name: value
                for name, value in fields.items() if name != 'sample_idx'
            }
        return None if fields is None else cls(data['inputs'], fields)

    @property
    def samples(self) -> BatchDataSample:
        """BatchDataSample: What is known of the images, made anew."""
        return BatchDataSample(**self.fields)

    @property
    def tensors(self) -> Dict[str, Tensor]:
        """dict[str, Tensor]: All tensors by a name of their own."""
        inputs = self.inputs
        if isinstance(inputs, Tensor):
            inputs = {'': inputs}
        return {
            **{f'inputs.{name}': value
               for name, value in inputs.items()},
            **{f'fields.{name}': value
               for name, value in self.fields.items()}
        }

    @property
    def kind(self) -> tuple:
        """tuple: What two batches have in common of which a recorded step
        takes both: names, shapes, strides and types."""
        return tuple((name, value.shape, value.stride(), value.dtype,
                      value.device) for name, value in self.tensors.items())

    def clone(self) -> 'StepBatch':
        """A copy in memory of its own."""
        inputs = self.inputs
        inputs = inputs.clone() if isinstance(inputs, Tensor) else {
            name: value.clone()
            for name, value in inputs.items()
        }
        return StepBatch(
            inputs,
            {name: value.clone()
             for name, value in self.fields.items()})

    def copy_(self, other: 'StepBatch') -> None:
        """Take over the values of another batch of this kind.

        Args:
            other (StepBatch): The other one.
        """
        own, given = self.tensors, other.tensors
        for name, value in given.items():
            own[name].copy_(value)


def _stacked(samples: Any) -> Optional[Dict[str, Tensor]]:
    """The fields of samples as one tensor each; None if they cannot be."""
    names = samples[0].keys()
    if any(sample.keys() != names for sample in samples):
        return None
    fields = {}
    for name in names:
        rows = [sample.get(name) for sample in samples]
        if not isinstance(rows[0], Tensor):
            continue
        if any(row.shape != rows[0].shape for row in rows):
            return None
        # A label is a tensor of one element in MMPretrain.
        one_each = name == 'gt_label' and rows[0].shape == (1, )
        fields[name] = (torch.cat if one_each else torch.stack)(rows)
    return fields or None
