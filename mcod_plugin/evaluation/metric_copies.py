import copy
import math
from typing import Any, Dict, List, Mapping, Sequence

import torch
from mmengine.evaluator import BaseMetric
from mmpretrain.registry import METRICS as MMPRETRAIN_METRICS

from mcod_plugin.errors import ConfigError, one_line
from mcod_plugin.registry import METRICS

__all__ = ['MetricCopies']

# What the sample of an image holds of the ensemble, and what of the branches.
SCORE, LABEL = 'pred_score', 'pred_label'
BRANCH_FIELDS = (f'{SCORE}_', f'{LABEL}_')


class MetricCopies:
    """Any metrics, of which each predictor has copies of its own.

    A copy is given ordinary samples: ``pred_score`` and ``pred_label`` are
    those of its predictor, and there are no others.

    Args:
        metrics (dict | BaseMetric | Sequence): Metrics, or their configs. The
            ``type`` is found in MMPretrain's registry, in MMEngine's and in
            this package's.

    Raises:
        ConfigError: If one cannot be built, or two give the same names.
    """

    def __init__(self, metrics: Any) -> None:
        if not isinstance(metrics, (list, tuple)):
            metrics = [metrics]
        self._originals = [_build(metric) for metric in metrics]
        settings = [{
            key: metric[key]
            for key in metric if key != 'prefix'
        } for metric in metrics if isinstance(metric, Mapping)]
        for one in settings:
            if settings.count(one) > 1:
                raise ConfigError('metric of BranchMetrics must give no name '
                                  f'twice; got {one["type"]} twice')
        self._copies: Dict[str, List[BaseMetric]] = {}
        self._silent: Dict[str, bool] = {}
        self.dataset_meta = None

    def process(self, data_batch: Any, samples: Sequence[Mapping[str, Any]],
                predictors: Mapping[str, str]) -> None:
        """Process the predictions of a batch from the data loader.
        ``predictors`` names the field of each one's scores."""
        for name, field in predictors.items():
            rows = [_alone(sample, name, field) for sample in samples]
            silent = torch.stack([row[SCORE] for row in rows]).isnan().all()
            self._silent[name] = self._silent.get(name, True) and bool(silent)
            for metric in self._of(name):
                metric.process(data_batch, rows)

    def _of(self, name: str) -> List[BaseMetric]:
        if name not in self._copies:
            self._copies[name] = copy.deepcopy(self._originals)
            for metric in self._copies[name]:
                metric.dataset_meta = self.dataset_meta
        return self._copies[name]

    def evaluate(self, size: int) -> Dict[str, Any]:
        """Evaluate what was processed of so many images; the next batch is the
        first one again. The values are by ``<predictor>/<key>``, in which the
        key is without the metric's own prefix, and NaN of what predicts
        nothing. Raise if two metrics give the same name."""
        found: Dict[str, Any] = {}
        for name, metrics in self._copies.items():
            for metric in metrics:
                for key, value in metric.evaluate(size).items():
                    key = f'{name}/{_without_prefix(key, metric)}'
                    if key in found:
                        raise ConfigError(
                            'metric of BranchMetrics must give no name twice; '
                            f'two of them give {key}')
                    found[key] = math.nan if self._silent[name] else value
        self._copies.clear()
        self._silent.clear()
        return found


def _build(metric: Any) -> BaseMetric:
    if isinstance(metric, Mapping):
        try:
            metric = METRICS.build({**metric, 'type': _find(metric)})
        except KeyError:
            # One that is not registered; the whole config explains it.
            raise
        except Exception as error:
            raise ConfigError(f'metric of BranchMetrics: {metric.get("type")}:'
                              f' {one_line(error)}') from error
    if not isinstance(metric, BaseMetric) or hasattr(metric, 'is_by_branch'):
        raise ConfigError('metric of BranchMetrics must be a metric of '
                          'MMPretrain or one like those, or a list of such; '
                          f'got {metric!r}')
    return metric


def _find(metric: Mapping) -> Any:
    """The class of a metric. MMEngine would only look in the default
    scope."""
    kind = metric.get('type')
    with METRICS.switch_scope_and_registry(metric.get('_scope_')) as current:
        if not isinstance(kind, str) or current.get(kind) is not None:
            return kind
    return METRICS.get(kind) or MMPRETRAIN_METRICS.get(kind) or kind


def _alone(sample: Mapping[str, Any], name: str, field: str) -> Dict[str, Any]:
    """A sample as it would be if there was no other predictor."""
    own = {
        key: value
        for key, value in sample.items()
        if key != LABEL and not key.startswith(BRANCH_FIELDS)
    }
    own[SCORE] = score = sample[field]
    label = LABEL if field == SCORE else f'{LABEL}_{name}'
    own[LABEL] = sample[label] if label in sample else score.argmax()[None]
    return own


def _without_prefix(key: str, metric: BaseMetric) -> str:
    prefix = f'{metric.prefix}/'
    return key[len(prefix):] if key.startswith(prefix) else key
