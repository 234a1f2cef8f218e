"""The branches follow the mean of their logits in every epoch, and this pulls
at their logits 0.3 times as hard as the labels do, however many classes there
are.

As always_on, but the weight of the schedule is in units of the ratio of both
gradients: the loss of each branch is scaled by a detached factor, averaged
over steps. The targets are detached.
"""
model = dict(
    teacher=dict(
        _delete_=True, type='mcod_plugin.EnsembleTeacher', fusion='mean'),
    distill=dict(
        _delete_=True,
        type='mcod_plugin.BalancedKDLoss',
        loss=dict(type='mcod_plugin.DiscontinuousKDLoss', temperature=3.0),
        momentum=0.9))

custom_hooks = [
    dict(
        type='mcod_plugin.DiscontinuousKDHook',
        on=1,
        gap=(0, 0),
        weight=(0.3, 0.3),
        curve='linear')
]
