from .autocast_optim_wrapper import AutocastOptimWrapper, has_bfloat16
from .branch_optim_wrapper_constructor import (BranchOptimWrapperConstructor,
                                               with_branch_constructor)
from .fused import prefer_fused
from .precision import precision

__all__ = [
    'AutocastOptimWrapper', 'BranchOptimWrapperConstructor', 'has_bfloat16',
    'precision', 'prefer_fused', 'with_branch_constructor'
]
