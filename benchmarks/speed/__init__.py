"""Speed of a cohort, against the same networks trained one by one."""
from .benchmark import run_benchmark
from .report import tables

__all__ = ['run_benchmark', 'tables']
