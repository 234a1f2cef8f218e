# Names without a prefix are MMPretrain's.
default_scope = 'mmpretrain'
custom_imports = dict(imports=['mcod_plugin'], allow_failed_imports=False)
runner_type = 'mcod_plugin.CohortRunner'

default_hooks = dict(
    # The losses stay on the device until they are logged.
    runtime_info=dict(type='mcod_plugin.CohortRuntimeInfoHook'),
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    # The last two epochs, and the best of every branch and of the ensemble.
    checkpoint=dict(
        type='mcod_plugin.BranchCheckpointHook', interval=1, max_keep_ckpts=2),
    # Exact resuming.
    epoch_seed=dict(type='mcod_plugin.EpochSeedHook'),
    label_check=dict(type='mcod_plugin.LabelCheckHook'),
    # The cohort at the start, its accuracy at the end.
    report=dict(type='mcod_plugin.CohortReportHook'))

env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'))

visualizer = dict(
    type='UniversalVisualizer', vis_backends=[dict(type='LocalVisBackend')])

randomness = dict(seed=0)
log_level = 'INFO'
load_from = None
resume = False
