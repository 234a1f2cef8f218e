from .base_teacher import BaseTeacher
from .ensemble_teacher import EnsembleTeacher
from .gated_teacher import GatedTeacher
from .peer_teacher import PeerTeacher

__all__ = ['BaseTeacher', 'EnsembleTeacher', 'GatedTeacher', 'PeerTeacher']
