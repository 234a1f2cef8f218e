"""Existing configs of classifiers become one cohort.

Configs that were composed import :func:`branch_from` from here; what writes
them is in :mod:`.compose`, which such a config need not load.
"""
from mcod_plugin.config.branch_from import branch_from

__all__ = ['branch_from']
