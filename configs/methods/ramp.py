"""The branches follow the mean of their logits in every epoch, at a weight
that rises from 0.1 to 1.

One of the two ideas of MCOD, without the gaps. The targets are detached.
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
        gap=(0, 0),
        weight=(0.1, 1.0),
        curve='linear')
]
