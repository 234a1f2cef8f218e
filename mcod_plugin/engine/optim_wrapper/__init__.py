from .autocast_optim_wrapper import AutocastOptimWrapper, has_bfloat16
from .fused import prefer_fused
from .precision import precision

__all__ = ['AutocastOptimWrapper', 'has_bfloat16', 'precision', 'prefer_fused']
