"""A branch leaves its cohort as an ordinary model."""
from .export import FORMATS, Export, Exports, export_branches, report

__all__ = ['FORMATS', 'Export', 'Exports', 'export_branches', 'report']
