from .cohort_tta import CohortTTA

__all__ = ['CohortTTA']
