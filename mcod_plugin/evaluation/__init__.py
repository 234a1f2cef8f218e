"""Metrics."""
from .branch_metrics import BranchMetrics, pairwise_disagreement, topk_hits
from .calibration import expected_calibration_error
from .cohort_evaluator import CohortEvaluator

__all__ = [
    'BranchMetrics', 'CohortEvaluator', 'expected_calibration_error',
    'pairwise_disagreement', 'topk_hits'
]
