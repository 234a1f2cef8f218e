from .discontinuous_kd_loss import DiscontinuousKDLoss, discontinuous_kd_loss

__all__ = ['DiscontinuousKDLoss', 'discontinuous_kd_loss']
