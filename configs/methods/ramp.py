"""The branches follow the mean of their logits in every epoch, at a weight
that rises from 0.5 to 1.5.

One of the two ideas of MCOD, growth, without gaps. The targets are detached.
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
        weight=(0.5, 1.5),
        curve='linear')
]
