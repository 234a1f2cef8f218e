"""Metrics."""
from .branch_metrics import BranchMetrics, pairwise_disagreement, topk_hits
from .cohort_evaluator import CohortEvaluator

__all__ = [
    'BranchMetrics', 'CohortEvaluator', 'pairwise_disagreement', 'topk_hits'
]
