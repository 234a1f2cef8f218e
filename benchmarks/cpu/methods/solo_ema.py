"""Each branch alone, and validated with its weights averaged over steps.

    L_i = CE_i,  average = 0.99 average + 0.01 weights in each step

An average over some hundred steps, as a short run asks for.
"""
model = dict(
    teacher=dict(
        _delete_=True, type='mcod_plugin.EnsembleTeacher', fusion='mean'),
    distill=None)

custom_hooks = [
    dict(
        type='mcod_plugin.DiscontinuousKDHook',
        on=1,
        gap=(0, 0),
        weight=(0.0, 0.0),
        curve='linear'),
    dict(type='EMAHook', momentum=0.01, update_buffers=True)
]
