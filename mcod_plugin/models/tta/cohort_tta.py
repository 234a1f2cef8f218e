from typing import Any, List, Sequence

import torch
from mmengine.model import BaseTTAModel
from mmpretrain.structures import DataSample

from mcod_plugin.registry import MODELS


@MODELS.register_module()
class CohortTTA(BaseTTAModel):
    """Test-time augmentation of a cohort: the ensemble and each branch have
    the mean of their scores over all versions of an image.

    It is to a cohort what ``AverageClsScoreTTA`` is to a classifier, of which
    the score would be averaged alone. Attributes that it has not itself are
    the cohort's.

    Args:
        module (dict | nn.Module): The cohort.
        data_preprocessor (dict | nn.Module, optional): A preprocessor in the
            place of the cohort's. Defaults to None.

    Examples:
        >>> tta_model = dict(type='mcod_plugin.CohortTTA')
        >>> tta_pipeline = [dict(
        ...     type='TestTimeAug',
        ...     transforms=[[dict(type='RandomFlip', prob=1.),
        ...                  dict(type='RandomFlip', prob=0.)],
        ...                 [dict(type='PackInputs')]])]
    """

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == 'module':
                raise
            return getattr(self.module, name)

    def merge_preds(
        self, data_samples_list: List[Sequence[DataSample]]
    ) -> List[DataSample]:
        """By image one prediction of those of all its versions: the mean
        scores and the labels that they give."""
        merged = [versions[0].new() for versions in data_samples_list]
        for field in merged[0].keys():
            if not field.startswith('pred_score'):
                continue
            scores = torch.stack([
                torch.stack([sample.get(field) for sample in versions])
                for versions in data_samples_list
            ]).mean(1)
            labels = self.module.label_rule.labels(scores)
            label = field.replace('score', 'label', 1)
            for sample, score, found in zip(merged, scores, labels):
                sample.set_field(score, field)
                if label in sample:
                    sample.set_field(found.reshape(-1), label)
        return merged
