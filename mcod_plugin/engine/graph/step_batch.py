from collections.abc import Mapping
from typing import Any, Dict, Optional, Union

import torch
from torch import Tensor

from mcod_plugin.structures import BatchDataSample, batch_fields

__all__ = ['StepBatch']


class StepBatch:
    """The tensors of a batch, which a recorded step reads.

    Args:
        inputs (Tensor | dict[str, Tensor]): Images ``(N, C, H, W)``, those of
            all branches or by branch.
        fields (dict[str, Tensor]): What is known of the images, each
            ``(N, ...)``, named as in :class:`BatchDataSample`.
        raw (bool): Whether they have still to be preprocessed.
    """

    def __init__(self, inputs: Union[Tensor, Mapping[str, Tensor]],
                 fields: Mapping[str, Tensor], raw: bool) -> None:
        # Those of all branches go by the empty name.
        self.inputs = {'': inputs} if isinstance(inputs, Tensor) else inputs
        self.fields = dict(fields)
        self.raw = raw

    @classmethod
    def of(cls, data: Any, raw: bool = False) -> Optional['StepBatch']:
        """The tensors of a batch, ``inputs`` and ``data_samples``, as the
        preprocessor gives them, or a loader if they are ``raw``. None if they
        are no tensors of the whole batch, and cannot be made ones, as labels
        of different number."""
        inputs, samples = data['inputs'], data['data_samples']
        if not isinstance(inputs, (Tensor, Mapping)):
            return None
        fields = batch_fields(samples)
        if fields is not None:
            # An image's number in its data set stays on the host.
            fields = {
                name: value
                for name, value in fields.items() if name != 'sample_idx'
            }
        elif not raw:
            fields = _stacked(samples)
        return None if fields is None else cls(inputs, fields, raw)

    @property
    def data(self) -> Dict[str, Any]:
        """dict: ``inputs`` and ``data_samples``, made anew."""
        return dict(
            inputs=self.inputs.get('', self.inputs),
            data_samples=BatchDataSample(**self.fields))

    @property
    def tensors(self) -> Dict[str, Tensor]:
        """dict[str, Tensor]: All tensors by a name of their own."""
        parts = dict(inputs=self.inputs, fields=self.fields)
        return {
            f'{part}.{name}': value
            for part, values in parts.items()
            for name, value in values.items()
        }

    @property
    def kind(self) -> tuple:
        """tuple: What two batches have in common if a recorded step takes
        both: names, shapes, strides and types, and which are the same."""
        first: Dict[int, str] = {}
        return (self.raw, *((name, value.shape, value.stride(), value.dtype,
                             first.setdefault(id(value), name))
                            for name, value in self.tensors.items()))

    def copy_to(self, device: torch.device) -> 'StepBatch':
        """A copy on a device, in memory of its own."""
        made: Dict[int, Tensor] = {}

        def copy(value: Tensor) -> Tensor:
            # Branches may share a view of the images.
            if id(value) not in made:
                made[id(value)] = value.to(device, copy=True)
            return made[id(value)]

        inputs, fields = ({
            name: copy(value)
            for name, value in values.items()
        } for values in (self.inputs, self.fields))
        return StepBatch(inputs, fields, self.raw)

    def copy_(self, other: 'StepBatch') -> None:
        """Take over the values of another batch of this kind."""
        pairs = {
            id(own): (own, given)
            for own, given in zip(self.tensors.values(),
                                  other.tensors.values())
        }
        for own, given in pairs.values():
            own.copy_(given, non_blocking=True)


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
        if name == 'gt_label':
            # A label is a tensor of one element in MMPretrain; those of an
            # image of several are not a row of a batch.
            if rows[0].shape != (1, ):
                return None
            fields[name] = torch.cat(rows)
        else:
            fields[name] = torch.stack(rows)
    return fields or None
