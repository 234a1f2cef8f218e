"""MCOD-style, but each branch follows the mean of the others' logits, without
its own.

Schedule and temperature are those of mcod. The targets are detached.
"""
model = dict(
    teacher=dict(
        _delete_=True,
        type='mcod_plugin.EnsembleTeacher',
        fusion='mean',
        leave_one_out=True),
    distill=dict(
        _delete_=True, type='mcod_plugin.DiscontinuousKDLoss',
        temperature=3.0))

custom_hooks = [
    dict(
        type='mcod_plugin.DiscontinuousKDHook',
        on=1,
        gap=(1, 0),
        weight=(1.0, 1.0),
        curve='linear')
]
