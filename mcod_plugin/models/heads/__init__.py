from .ensemble_teacher import EnsembleTeacher
from .gated_teacher import GatedTeacher
from .peer_teacher import PeerTeacher

__all__ = ['EnsembleTeacher', 'GatedTeacher', 'PeerTeacher']
