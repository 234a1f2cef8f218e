"""Metrics."""
from .branch_metrics import (BranchMetrics, decision_disagreement,
                             pairwise_disagreement, topk_hits)
from .calibration import expected_calibration_error
from .cohort_evaluator import CohortEvaluator
from .prediction_file import PredictionFile

__all__ = [
    'BranchMetrics', 'CohortEvaluator', 'PredictionFile',
    'decision_disagreement', 'expected_calibration_error',
    'pairwise_disagreement', 'topk_hits'
]
