from .autocast_optim_wrapper import (AutocastOptimWrapper, has_bfloat16,
                                     precision, use_amp)
from .branch_optim_wrapper_constructor import BranchOptimWrapperConstructor
from .branch_optimizer import BranchOptimizer
from .fused import prefer_fused
from .optimizer_state import (all_kinds, arrange_parameters, changed_options,
                              match_memory_formats, match_parameters,
                              name_parameters, optimizer_kinds)
from .prepare import prepare_optim_wrapper

__all__ = [
    'AutocastOptimWrapper', 'BranchOptimWrapperConstructor',
    'BranchOptimizer', 'all_kinds', 'arrange_parameters', 'changed_options',
    'has_bfloat16', 'match_memory_formats', 'match_parameters',
    'name_parameters', 'optimizer_kinds', 'precision', 'prefer_fused',
    'prepare_optim_wrapper', 'use_amp'
]
