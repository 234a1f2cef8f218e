"""The branches follow the mean of their logits at weight 1, one epoch on and
then a gap, which shrinks from 4 epochs to none over the run.

One of the two ideas of MCOD, without the rising weight. The targets are
detached.
"""
model = dict(
    teacher=dict(
        _delete_=True, type='mcod_plugin.EnsembleTeacher', fusion='mean'),
    distill=dict(
        _delete_=True, type='mcod_plugin.DiscontinuousKDLoss',
        temperature=3.0))

custom_hooks = [
    dict(
        type='mcod_plugin.DiscontinuousKDHook',
        on=1,
        gap=(4, 0),
        weight=(1.0, 1.0),
        curve='linear')
]
