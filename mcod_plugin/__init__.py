"""Collaborative online distillation of mixed cohorts for MMPretrain."""
from .model_index import enter_models
from .version import __version__

__all__ = ['__version__']

enter_models()
