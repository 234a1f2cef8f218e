from .branch_layout import BranchLayout
from .parallel_setting import (check_cohort, check_hooks, check_settings,
                               parallel_branches)
from .samplers import sample_by_data_rank

__all__ = [
    'BranchLayout', 'check_cohort', 'check_hooks', 'check_settings',
    'parallel_branches', 'sample_by_data_rank'
]
