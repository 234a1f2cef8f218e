from .branch_checkpoint_hook import BranchCheckpointHook
from .buffer_sync_hook import BufferSyncHook
from .cohort_report_hook import CohortReportHook
from .cohort_runtime_info_hook import CohortRuntimeInfoHook
from .discontinuous_kd_hook import DiscontinuousKDHook
from .epoch_seed_hook import EpochSeedHook
from .label_check_hook import LabelCheckHook
from .progress_bar_hook import ProgressBarHook
from .run_figure_hook import RunFigureHook
from .run_record_hook import RunRecordHook

__all__ = [
    'BranchCheckpointHook', 'BufferSyncHook', 'CohortReportHook',
    'CohortRuntimeInfoHook', 'DiscontinuousKDHook', 'EpochSeedHook',
    'LabelCheckHook', 'ProgressBarHook', 'RunFigureHook',
    'RunRecordHook'
]
