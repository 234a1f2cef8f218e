from .balanced_kd_loss import BalancedKDLoss
from .base_kd_loss import BaseKDLoss
from .discontinuous_kd_loss import DiscontinuousKDLoss, discontinuous_kd_loss
from .mutual_kd_loss import MutualKDLoss, mutual_kd_loss

__all__ = [
    'BalancedKDLoss', 'BaseKDLoss', 'DiscontinuousKDLoss', 'MutualKDLoss',
    'discontinuous_kd_loss', 'mutual_kd_loss'
]
