"""Many methods on one cohort, side by side."""
from .execution import execute
from .plan import Run, choose, plan, shard
from .report import write_report
from .state import overview, state
from .study import Method, Study, read_study

__all__ = [
    'Method', 'Run', 'Study', 'choose', 'execute', 'overview', 'plan',
    'read_study', 'shard', 'state', 'write_report'
]
