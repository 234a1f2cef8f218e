from typing import Any, Dict, Optional, Sequence

from mmengine.evaluator import Evaluator
from mmengine.structures import BaseDataElement

from mcod_plugin.errors import ConfigError, one_line
from mcod_plugin.registry import EVALUATORS
from mcod_plugin.structures import BatchDataSample
from mcod_plugin.utils.mesh import (branch_rank, branch_size, data_rank,
                                    data_size)
from .branch_metrics import BranchMetrics


@EVALUATORS.register_module()
class CohortEvaluator(Evaluator):
    """MMEngine's evaluator, which hands a :class:`BatchDataSample` as a whole
    to metrics that take it so.

    Those have a method ``process_batch(fields)``. All others get the samples
    one by one, as always.

    Of processes that see the same images, as they do if they share the
    branches, each hands on a share of the predictions; so each image counts
    once.

    Args:
        metrics (dict | BaseMetric | Sequence): Configs of the metrics.

    Attributes:
        images (int | None): How many images there are, where processes share
            branches. What a sampler adds to them does not count.

    Raises:
        ConfigError: If there are two :class:`BranchMetrics`, which would give
            the same names.
    """

    def __init__(self, metrics: Any) -> None:
        super().__init__(metrics)
        self.images: Optional[int] = None
        self._seen = 0
        found = [m for m in self.metrics if isinstance(m, BranchMetrics)]
        if len(found) > 1:
            raise ConfigError('an evaluator must have one BranchMetrics; got '
                              f'{len(found)}; metric of BranchMetrics takes '
                              'a list')

    def process(self,
                data_samples: Sequence[BaseDataElement],
                data_batch: Optional[Any] = None) -> None:
        """Hand the predictions and the ground truth of a batch to all
        metrics."""
        if branch_size() > 1:
            data_samples, data_batch = self._own_share(data_samples), None
            if not len(data_samples):
                return
        if not isinstance(data_samples, BatchDataSample):
            super().process(data_samples, data_batch)
            return
        rows = None
        for metric in self.metrics:
            if hasattr(metric, 'process_batch'):
                metric.process_batch(data_samples.fields)
            else:
                if rows is None:
                    rows = [sample.to_dict() for sample in data_samples]
                metric.process(data_batch, rows)

    def _own_share(self, data_samples: Sequence[BaseDataElement]) -> Sequence:
        """The predictions of a batch that this process hands on."""
        begin, self._seen = self._seen, self._seen + len(data_samples)
        own = [
            place for place in range(len(data_samples))
            if (begin + place) % branch_size() == branch_rank()
            and data_rank() + data_size() * (begin + place) < self.images
        ]
        if isinstance(data_samples, BatchDataSample) and own:
            return BatchDataSample(**{
                key: value[own]
                for key, value in data_samples.fields.items()
            })
        return [data_samples[place] for place in own]

    def evaluate(self, size: int) -> Dict[str, Any]:
        """Evaluate what was processed; see MMEngine.

        Raises:
            ConfigError: If two metrics have the same name.
        """
        self._seen = 0
        try:
            return super().evaluate(size)
        except ValueError as error:
            if 'same metric name' not in str(error):
                raise
            raise ConfigError(f'the metrics of an evaluator must have names '
                              f'of their own: {one_line(error)}') from error
