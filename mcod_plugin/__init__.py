"""Collaborative online distillation of mixed cohorts for MMPretrain."""
from .version import __version__

__all__ = ['__version__']
