from .autocast_optim_wrapper import (AutocastOptimWrapper, has_bfloat16,
                                     precision, use_amp)
from .branch_optim_wrapper_constructor import BranchOptimWrapperConstructor
from .optimizer_state import (arrange_parameters, changed_options,
                              match_memory_formats, match_parameters,
                              name_parameters)
from .prepare import prefer_fused, prepare_optim_wrapper

__all__ = [
    'AutocastOptimWrapper', 'BranchOptimWrapperConstructor',
    'arrange_parameters', 'changed_options', 'has_bfloat16',
    'match_memory_formats', 'match_parameters', 'name_parameters',
    'precision', 'prefer_fused', 'prepare_optim_wrapper', 'use_amp'
]
