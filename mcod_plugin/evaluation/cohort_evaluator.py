from typing import Any, Optional, Sequence

from mmengine.evaluator import Evaluator
from mmengine.structures import BaseDataElement

from mcod_plugin.errors import ConfigError
from mcod_plugin.registry import EVALUATORS
from mcod_plugin.structures import BatchDataSample
from .branch_metrics import BranchMetrics


@EVALUATORS.register_module()
class CohortEvaluator(Evaluator):
    """MMEngine's evaluator, which hands a :class:`BatchDataSample` as a whole
    to metrics that take it so.

    Those have a method ``process_batch(fields)``. All others get the samples
    one by one, as always.

    Args:
        metrics (dict | BaseMetric | Sequence): Configs of the metrics.

    Raises:
        ConfigError: If there are two :class:`BranchMetrics`, which would give
            the same names.
    """

    def __init__(self, metrics: Any) -> None:
        super().__init__(metrics)
        found = [m for m in self.metrics if isinstance(m, BranchMetrics)]
        if len(found) > 1:
            raise ConfigError('an evaluator must have one BranchMetrics; got '
                              f'{len(found)}; metric of BranchMetrics takes '
                              'a list')

    def process(self,
                data_samples: Sequence[BaseDataElement],
                data_batch: Optional[Any] = None) -> None:
        """Hand the predictions of a batch to all metrics.

        Args:
            data_samples (BatchDataSample | Sequence[BaseDataElement]):
                Predictions and ground truth.
            data_batch (Any, optional): The batch from the data loader.
                Defaults to None.
        """
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
