"""Metrics."""
from .branch_metrics import BranchMetrics, pairwise_disagreement, topk_hits

__all__ = ['BranchMetrics', 'pairwise_disagreement', 'topk_hits']
