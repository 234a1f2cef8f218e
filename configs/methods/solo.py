"""Each branch alone: they see the same batches and never distil.

    L_i = CE_i

This is the baseline of all others. The ensemble is the mean of the logits.
There is no distillation loss, so that no hook can make the branches distil.
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
        curve='linear')
]
