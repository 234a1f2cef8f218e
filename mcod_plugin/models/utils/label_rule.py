"""Images of one label or of several, and what is predicted of them."""
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Sequence, Union

import torch.nn as nn
from mmpretrain.models.classifiers import BaseClassifier
from mmpretrain.models.heads import ClsHead, MultiLabelClsHead
from mmpretrain.structures import DataSample
from torch import Tensor

from mcod_plugin.errors import ConfigError, check_choice
from mcod_plugin.structures import BatchDataSample, batch_fields
from .branch_loss import has_margin, loss_owner

__all__ = ['LabelRule', 'check_mixing']


@dataclass(frozen=True)
class LabelRule:
    """How scores and labels of an image come from logits.

    Attributes:
        multi_label (bool): Whether an image has several labels: its scores
            are sigmoids of the logits, otherwise their softmax.
        thr (float, optional): The least score of a label. It goes before
            ``topk``, and is for several labels, as in MMPretrain's heads.
        topk (int, optional): The number of best scores that are the labels.
    """

    multi_label: bool = False
    thr: Optional[float] = None
    topk: Optional[int] = None

    @classmethod
    def of(cls,
           branches: Mapping[str, nn.Module],
           multi_label: Optional[bool] = None) -> 'LabelRule':
        """The rule of a cohort, on which its branches must agree. Whether the
        images have several labels the heads tell, unless it is given. Networks
        and heads that do not tell go with the others, or are for one."""
        setting = 'model.multi_label'
        check_choice(setting, multi_label, (None, True, False))
        owners = {
            name: loss_owner(branch)
            for name, branch in branches.items()
        }
        several, one = ({
            name: owner
            for name, owner in owners.items() if isinstance(owner, kinds)
        } for kinds in (MultiLabelClsHead, (ClsHead, BaseClassifier)))
        if several and one:
            raise ConfigError(
                'model.branches must all be for images of one label, or all '
                f'for images of several; got {_kinds(one)} for one and '
                f'{_kinds(several)} for several')
        if multi_label is False and several:
            raise ConfigError(f'{setting} is False, but for images of several '
                              f'labels are {_kinds(several)}')
        if multi_label and one:
            raise ConfigError(f'{setting} is True, but for images of one '
                              f'label are {_kinds(one)}')
        if not (several or multi_label):
            return cls()
        rules = {
            cls(True, head.thr, None if head.thr is not None else head.topk)
            for head in several.values()
        } or {cls(True, thr=.5)}
        if len(rules) > 1:
            given = ', '.join(f'{name} thr={head.thr}, topk={head.topk}'
                              for name, head in several.items())
            raise ConfigError(
                'model.branches must agree on thr and topk of their heads, by '
                f'which the ensemble is given labels; got {given}')
        return rules.pop()

    def scores(self, logits: Tensor) -> Tensor:
        """Probabilities ``(N, C)`` from logits ``(N, C)``."""
        return logits.sigmoid() if self.multi_label else logits.softmax(1)

    def labels(self, scores: Tensor) -> Union[Tensor, List[Tensor]]:
        """The labels ``(N, )`` that images are given by their scores ``(N,
        C)``; if there are several, those of each image ``(number, )``."""
        if not self.multi_label:
            return scores.argmax(1)
        if self.thr is None:
            return list(scores.topk(min(self.topk, scores.size(1))).indices)
        chosen = scores >= self.thr
        # One transfer, not one for each image.
        return list(chosen.nonzero()[:, 1].split(chosen.sum(1).tolist()))

    def samples(self, data_samples: Any,
                scores: Mapping[str, Tensor]) -> Sequence[DataSample]:
        """The samples, new ones for None, filled with ``pred_label`` and the
        scores ``(N, C)``: ``pred_score`` of the ensemble and
        ``pred_score_<branch>`` of each branch.

        A new batch if one was given, else a list. If images have several
        labels, always a list, with ``pred_label_<branch>`` of each branch
        besides.
        """
        fields = batch_fields(data_samples)
        if not self.multi_label:
            predictions = BatchDataSample(
                pred_label=self.labels(scores['pred_score']), **scores)
            if fields is not None:
                return BatchDataSample(**{**fields, **predictions.fields})
        else:
            predictions = BatchDataSample(**scores)
            for key, value in scores.items():
                key = key.replace('score', 'label', 1)
                for sample, label in zip(predictions, self.labels(value)):
                    sample.set_field(label, key)
        if data_samples is None:
            return list(predictions)
        filled = []
        for sample, prediction in zip(data_samples, predictions):
            sample = DataSample() if sample is None else sample
            sample.update(prediction)
            filled.append(sample)
        return filled


def check_mixing(branches: Mapping[str, nn.Module],
                 preprocessor: nn.Module) -> None:
    """Raise if images are mixed whose label a head has to know."""
    augments = getattr(preprocessor, 'batch_augments', None)
    if augments is not None:
        check_augments('model.train_cfg.augments', branches, augments)


def check_augments(setting: str, branches: Mapping[str, nn.Module],
                   augments: Any) -> None:
    """Raise if batch augmentations mix images whose label a head has to
    know."""
    for name, branch in branches.items():
        reason = None
        if has_margin(branch):
            reason = (f'{type(branch.head).__name__} of model.branches.{name} '
                      'has a margin for the label of each')
        elif getattr(loss_owner(branch), 'cal_acc', False):
            reason = (f'model.branches.{name}.head.cal_acc=True measures '
                      'accuracy by the label of each')
        if reason is not None:
            kinds = ', '.join(
                type(augment).__name__
                for augment in augments.augments)
            raise ConfigError(f'{setting} must not mix images ({kinds}), '
                              f'because {reason}')


def _kinds(heads: Dict[str, nn.Module]) -> str:
    return ', '.join(f'{name} ({type(head).__name__})'
                     for name, head in heads.items())
