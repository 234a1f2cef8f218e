"""Many methods on one cohort, side by side."""
from .execution import execute
from .overview import overview
from .plan import Run, choose, plan
from .state import state
from .study import Method, Study, read_study
from .write_report import write_report

__all__ = [
    'Method', 'Run', 'Study', 'choose', 'execute', 'overview', 'plan',
    'read_study', 'state', 'write_report'
]
