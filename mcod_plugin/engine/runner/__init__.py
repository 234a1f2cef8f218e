from .cohort_runner import CohortRunner

__all__ = ['CohortRunner']
