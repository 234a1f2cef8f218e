from .balanced_kd_loss import BalancedKDLoss
from .base_kd_loss import BaseKDLoss
from .binary_kd_loss import binary_kd_loss
from .discontinuous_kd_loss import DiscontinuousKDLoss, discontinuous_kd_loss
from .dist_loss import DISTLoss, dist_loss
from .dkd_loss import DKDLoss, dkd_loss
from .feature_kd_loss import FeatureKDLoss, feature_kd_loss
from .mutual_kd_loss import MutualKDLoss, mutual_kd_loss

__all__ = [
    'BalancedKDLoss', 'BaseKDLoss', 'DISTLoss', 'DKDLoss',
    'DiscontinuousKDLoss', 'FeatureKDLoss', 'MutualKDLoss', 'binary_kd_loss',
    'discontinuous_kd_loss', 'dist_loss', 'dkd_loss', 'feature_kd_loss',
    'mutual_kd_loss'
]
