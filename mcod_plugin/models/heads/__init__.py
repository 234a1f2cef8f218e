from .ensemble_teacher import EnsembleTeacher

__all__ = ['EnsembleTeacher']
