"""Accuracy and calibration of every branch and of the ensemble, and how they
differ."""
from typing import (Any, Dict, Iterable, List, Mapping, Optional, Sequence,
                    Tuple, Union)

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from torch import Tensor

from mcod_plugin.errors import ConfigError, check_integer
from mcod_plugin.registry import METRICS
from mcod_plugin.structures import BatchDataSample
from .calibration import expected_calibration_error
from .metric_copies import MetricCopies

ENSEMBLE = 'ensemble'
ENSEMBLE_FIELD = 'pred_score'
BRANCH_FIELD = 'pred_score_'

# The label of what predicts nothing: all scores are NaN.
NOTHING = -1
# The numbers of best scores that are looked at unless others are given.
TOPK = (1, 5)
# The least score of a label that an image of several has.
THRESHOLD = 0.5


def topk_hits(scores: Tensor, target: Tensor,
              topk: Sequence[int]) -> Tuple[Tensor, Tensor]:
    """Look for the true class among the best scores of every predictor.

    Ties are resolved as :func:`torch.topk` does. As in MMPretrain's
    ``Accuracy``, a score that is not greater than 0 is never a hit; so a
    network that gives NaN is wrong everywhere. A ``k`` beyond the number of
    classes counts as the number of classes.

    Args:
        scores (torch.Tensor): Probabilities, in shape ``(N, P, C)``, of
            ``P`` predictors.
        target (torch.Tensor): The true classes, in shape ``(N, )``.
        topk (Sequence[int]): How many of the best scores to look at; ``K``
            numbers.

    Returns:
        Tuple[torch.Tensor, torch.Tensor]: The class of the best score, in
        shape ``(N, P)``, and whether the true class is among the best, in
        shape ``(N, P, K)``.
    """
    best, classes = scores.topk(min(max(topk), scores.size(-1)), dim=-1)
    hits = (classes == target[:, None, None]) & (best > 0)
    among = torch.stack([hits[..., :k].any(dim=-1) for k in topk], dim=-1)
    return classes[..., 0], among


def pairwise_disagreement(labels: Tensor) -> float:
    r"""Mean share of samples on which two predictors differ.

    .. math::
        D = \frac{2}{P (P - 1)} \sum_{i<j} \frac{1}{N}
            \sum_{n=1}^{N} [y_{ni} \neq y_{nj}]

    Args:
        labels (torch.Tensor): The predicted classes :math:`y`, in shape
            ``(N, P)``, of ``P`` predictors.

    Returns:
        float: The share, from 0 to 1. It is 0 for a single predictor, which
        has nobody to differ from.
    """
    num_samples, num_predictors = labels.shape
    if num_predictors < 2:
        return 0.0
    # This counts each pair twice, on both sides of the fraction.
    differing = (labels[:, :, None] != labels[:, None, :]).sum().item()
    return differing / (num_samples * num_predictors * (num_predictors - 1))


def decision_disagreement(decisions: Tensor, counts: Tensor) -> Tensor:
    r"""Mean share of labels on which two predictions differ, where an image
    may have several.

    .. math::
        D_n = \frac{2}{P (P - 1)} \sum_{i<j} \frac{1}{C}
            \sum_{c=1}^{C} [d_{nic} \neq d_{njc}]

    Args:
        decisions (torch.Tensor): Whether a predictor gives an image a label,
            booleans in shape ``(N, P, C)``.
        counts (torch.Tensor): Whether a predictor counts for an image,
            booleans in shape ``(N, P)``.

    Returns:
        torch.Tensor: The shares ``(N, )``, from 0 to 1; 0 where fewer than
        two predictors count.
    """
    number = counts.sum(1)
    having = (decisions & counts[..., None]).sum(1)
    pairs = (having * (number[:, None] - having)).double().mean(1)
    return pairs / (number * (number - 1) / 2).clamp(min=1)


@METRICS.register_module()
class BranchMetrics(BaseMetric):
    """Top-k accuracy or any other metrics of each branch and the ensemble,
    and their diversity.

    It reads ``pred_score`` (the ensemble), ``pred_score_<branch>`` (one per
    branch) and ``gt_label`` from the data samples and gives, in this order:

    - ``ensemble/top<k>``: accuracy of the ensemble, in percent. It comes
      first, so ``save_best='auto'`` keeps the best ensemble.
    - ``<branch>/top<k>``: accuracy of each branch, in percent; the branches
      are in alphabetical order.
    - ``ensemble/ece`` and ``<branch>/ece``, only with ``calibration_bins``:
      the expected calibration error, in percent, see
      :func:`expected_calibration_error`.
    - ``diversity/disagreement``: the share (from 0 to 1) of samples on which
      two branches' labels differ, averaged over the pairs of branches; 0 with
      a single branch. The ensemble takes no part in it.
    - ``ensemble/<key>`` and ``<branch>/<key>``, only with ``metric``: what
      other metrics give for each.

    Images of several labels have no top-k accuracy and no calibration error,
    so they need a ``metric``. Their ``diversity/disagreement`` is the share
    of labels that one of two branches gives an image, by a score of at least
    0.5, and the other does not, see :func:`decision_disagreement`.

    The best of as many scores as there are classes always hold the true one.
    A ``k`` that is not below the number of classes says nothing, therefore,
    and is left out: the default serves data of three classes, too.

    Args:
        topk (int | Sequence[int], optional): The numbers of best scores among
            which the true class is looked for. With a ``metric`` there may be
            none, ``()``. Defaults to None: ``(1, 5)``, without those names
            that ``metric`` gives.
        calibration_bins (int, optional): The number of bins for the expected
            calibration error; 15 is usual. Defaults to None, which leaves it
            out.
        metric (dict | BaseMetric | Sequence, optional): A metric of
            MMPretrain or one like those, or several. Each branch and the
            ensemble have a copy of their own, to which they are the only
            network: ``pred_score`` and ``pred_label`` are theirs. In the
            names of the results, theirs takes the place of the metric's
            prefix, so ``single-label/precision`` becomes
            ``<branch>/precision``. Defaults to None.
        collect_device (str): Device for collecting results from the ranks,
            ``'cpu'`` or ``'gpu'``. Defaults to ``'cpu'``.
        collect_dir (str, optional): Directory for collecting results from
            the ranks, only for ``collect_device='cpu'``. Defaults to None.

    Examples:
        >>> val_evaluator = dict(type='mcod_plugin.BranchMetrics', topk=(1, 5))
        >>> # images of several labels
        >>> val_evaluator = dict(
        ...     type='mcod_plugin.BranchMetrics',
        ...     metric=[dict(type='MultiLabelMetric'),
        ...             dict(type='AveragePrecision')])

    Raises:
        ConfigError: If a setting is none of those allowed, data samples lack
            what is needed, or two metrics give the same name.
    """

    # Every key starts with the name of a predictor already. An empty prefix
    # is a prefix that is set, unlike None, of which MMEngine warns.
    default_prefix = ''
    is_by_branch = True

    def __init__(self,
                 topk: Union[int, Sequence[int], None] = None,
                 calibration_bins: Optional[int] = None,
                 metric: Any = None,
                 collect_device: str = 'cpu',
                 collect_dir: Optional[str] = None) -> None:
        self._others = MetricCopies(metric) if metric else None
        super().__init__(
            collect_device=collect_device, collect_dir=collect_dir)
        self._given = topk is not None
        topk = topk if self._given else TOPK
        numbers = tuple(topk) if isinstance(topk, (tuple, list)) else (topk, )
        if (not numbers and self._others is None
                or any(type(k) is not int or k < 1 for k in numbers)):
            raise ConfigError('topk of BranchMetrics must be positive whole '
                              f'numbers, at least one; got {topk!r}')
        self.topk = tuple(sorted(set(numbers)))
        if calibration_bins is not None:
            check_integer('calibration_bins of BranchMetrics',
                          calibration_bins)
        self.calibration_bins = calibration_bins

    def check_labels(self, multi_label: bool) -> None:
        """Look before a run whether what it needs will be there.

        Args:
            multi_label (bool): Whether the model gives images several labels.

        Raises:
            ConfigError: If it is for images of one label only.
        """
        if multi_label:
            self._check_several('images of several from the model')

    @BaseMetric.dataset_meta.setter
    def dataset_meta(self, dataset_meta: dict) -> None:
        """Set the meta information of the data set, for all metrics."""
        self._dataset_meta = dataset_meta
        if self._others is not None:
            self._others.dataset_meta = dataset_meta

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Reduce one batch to a few small numbers per sample.

        Args:
            data_batch (Any): A batch of data from the data loader, which only
                other metrics may use.
            data_samples (Sequence[dict]): The predictions of the batch.
        """
        for sample in data_samples:
            _check_fields(sample)
        names = _predictors(data_samples[0])
        # One transfer per batch.
        scores = torch.stack([
            torch.stack([sample[field] for field in names.values()])
            for sample in data_samples
        ])
        labels = [sample.get('gt_label') for sample in data_samples]
        several = [label is None or len(label) != 1 for label in labels]
        if any(several):
            label = labels[several.index(True)]
            self._check_several(
                'none' if label is None else f'one with {label.tolist()}')
        target = None if any(several) else torch.cat(labels)
        self._add(tuple(names), scores, target)
        if self._others is not None:
            self._others.process(data_batch, data_samples, names)

    def process_batch(self, fields: Dict[str, Tensor]) -> None:
        """Do the same for a batch of which each field is one tensor.

        Args:
            fields (Dict[str, torch.Tensor]): The predictions of the batch,
                the fields of a :class:`BatchDataSample`.
        """
        _check_fields(fields)
        if 'gt_label' not in fields or self._others is not None:
            self.process(
                None,
                [sample.to_dict() for sample in BatchDataSample(**fields)])
            return
        names = _predictors(fields)
        scores = torch.stack([fields[field] for field in names.values()], 1)
        self._add(tuple(names), scores, fields['gt_label'])

    def _check_several(self, got: str) -> None:
        """Raise if what is asked for is of images of one label only."""
        asked = 'calibration_bins' if self.calibration_bins is not None else (
            'topk' if self._given and self.topk else '')
        if asked or self._others is None:
            raise ConfigError(
                f'{asked or "topk"} of BranchMetrics is for images of one '
                f'label (gt_label); got {got}; leave it out and set metric, '
                "such as metric=dict(type='AveragePrecision'), if they have "
                'several')

    def _add(self, names: Tuple[str, ...], scores: Tensor,
             target: Optional[Tensor]) -> None:
        """Keep what counts of a batch's scores ``(N, P, C)``. There is no
        target if an image has several labels."""
        # On the CPU, where MMPretrain's metrics work too, ties go the same
        # way whichever device the model runs on.
        scores = scores.float().cpu()
        differing = None
        if self._others is not None:
            # Others of the data may have several labels.
            own = scores[:, 1:]
            differing = decision_disagreement(own >= THRESHOLD,
                                              ~own.isnan().all(-1)).tolist()
        if target is None:
            self.results.extend(dict(differing=share) for share in differing)
            return
        labels, hits = topk_hits(scores, target.cpu(), (1, *self.topk))
        labels = labels.masked_fill(scores.isnan().all(-1), NOTHING)

        # a prefix of the sorted numbers
        topk = tuple(k for k in self.topk if k < scores.size(-1))
        columns = dict(label=labels, hit=hits[..., 1:len(topk) + 1])
        if self.calibration_bins is not None:
            # Confidence, and whether it is justified; in one array, since an
            # array takes more room than what it holds.
            columns['top'] = torch.stack(
                (scores.amax(-1), hits[..., 0].float()), 1)
        # Rows of arrays, since a row of a tensor is pickled for the other
        # ranks together with the whole batch.
        columns = {key: column.numpy() for key, column in columns.items()}
        if differing is not None:
            columns['differing'] = differing
        for row in zip(*columns.values()):
            self.results.append(
                dict(zip(columns, row), names=names, topk=topk))

    def evaluate(self, size: int) -> Dict[str, Any]:
        """Evaluate what was processed.

        Args:
            size (int): Number of images of the data set.

        Returns:
            dict[str, Any]: The metrics by name.

        Raises:
            ConfigError: If two have the same name.
        """
        metrics = super().evaluate(size)
        if self._others is None:
            return metrics
        others = self._others.evaluate(size)
        for name in others:
            # What is there by default gives way.
            asked = 'calibration_bins' if name.endswith('/ece') else (
                'topk' if self._given else '')
            if asked and name in metrics:
                raise ConfigError(
                    f'{asked} and metric of BranchMetrics must not both give '
                    f'{name}; leave one of them out')
        return {**metrics, **others}

    def names(self, branches: Iterable[str],
              num_classes: int) -> Optional[List[str]]:
        """The names of the metrics that it is going to give.

        Args:
            branches (Iterable[str]): Names of the branches.
            num_classes (int): Number of classes.

        Returns:
            list[str] | None: None if others that it is given have names that
            only they know.
        """
        if self._others is not None:
            return None
        keys = [f'top{k}' for k in self.topk if k < num_classes]
        keys += ['ece'] * (self.calibration_bins is not None)
        return [
            f'{name}/{key}' for key in keys
            for name in (ENSEMBLE, *sorted(branches))
        ] + ['diversity/disagreement']

    def compute_metrics(self, results: List[dict]) -> Dict[str, float]:
        """Compute the metrics from the results of all samples.

        Args:
            results (List[dict]): What :meth:`process` kept of each sample.

        Returns:
            Dict[str, float]: The metrics by name.
        """
        if any('label' not in result for result in results):
            return {
                'diversity/disagreement':
                float(np.mean([result['differing'] for result in results]))
            }
        names, topk = results[0]['names'], results[0]['topk']
        accuracy = 100 * np.mean([result['hit'] for result in results], axis=0)
        labels = np.stack([result['label'] for result in results])
        silent = (labels == NOTHING).all(axis=0)
        accuracy[silent] = np.nan
        metrics = {
            f'{name}/top{k}': float(accuracy[i, j])
            for i, name in enumerate(names)
            for j, k in enumerate(topk)
        }
        if self.calibration_bins is not None:
            confidence, correct = np.stack(
                [result['top'] for result in results], axis=1)
            for i, name in enumerate(names):
                metrics[f'{name}/ece'] = 100 * expected_calibration_error(
                    confidence[:, i], correct[:, i], self.calibration_bins)
        metrics['diversity/disagreement'] = pairwise_disagreement(
            torch.from_numpy(labels[:, 1:][:, ~silent[1:]]))
        return metrics


def _check_fields(fields: Mapping[str, Any]) -> None:
    """Raise unless samples have labels and all scores that are needed."""
    if 'gt_label' not in fields and 'gt_score' not in fields:
        raise ConfigError(
            'BranchMetrics needs gt_label in every data sample (or gt_score, '
            'for several labels), so the data set must give labels; got '
            f'samples with {", ".join(sorted(fields)) or "no field"}')
    if ENSEMBLE_FIELD not in fields or not any(
            name.startswith(BRANCH_FIELD) for name in fields):
        raise ConfigError(
            'BranchMetrics needs pred_score and one pred_score_<branch> per '
            'branch, as mcod_plugin.MultiBackboneClassifier predicts; got '
            f'samples with {", ".join(sorted(fields))}')


def _predictors(fields: Mapping[str, Any]) -> Dict[str, str]:
    """The field of the scores of the ensemble and of each branch, by name."""
    # Data samples keep their fields in a set, whose order differs from
    # process to process.
    branches = sorted(
        name for name in fields if name.startswith(BRANCH_FIELD))
    return {
        ENSEMBLE: ENSEMBLE_FIELD,
        **{name[len(BRANCH_FIELD):]: name
           for name in branches}
    }
