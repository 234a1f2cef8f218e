from typing import Any, Optional, Sequence

from mmengine.evaluator import Evaluator
from mmengine.structures import BaseDataElement

from mcod_plugin.registry import EVALUATORS
from mcod_plugin.structures import BatchDataSample


@EVALUATORS.register_module()
class CohortEvaluator(Evaluator):
    """MMEngine's evaluator, which hands a :class:`BatchDataSample` as a whole
    to metrics that take it so.

    Those have a method ``process_batch(fields)``. All others get the samples
    one by one, as always.

    Args:
        metrics (dict | BaseMetric | Sequence): Configs of the metrics.
    """

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
