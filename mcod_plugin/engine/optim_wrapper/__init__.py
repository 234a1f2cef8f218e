from .autocast_optim_wrapper import AutocastOptimWrapper, has_bfloat16
from .fused import prefer_fused

__all__ = ['AutocastOptimWrapper', 'has_bfloat16', 'prefer_fused']
