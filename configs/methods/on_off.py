"""The branches follow the mean of their logits at weight 1 in every other
epoch.

One of the two ideas of MCOD, discontinuity, without growth. The targets are
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
        gap=(1, 1),
        weight=(1.0, 1.0),
        curve='linear')
]
