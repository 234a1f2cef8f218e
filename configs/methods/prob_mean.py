"""MCOD-style, but the branches follow the mean of their probabilities instead
of their logits.

Schedule and temperature are those of mcod. The targets are detached.
"""
model = dict(
    teacher=dict(
        _delete_=True, type='mcod_plugin.EnsembleTeacher', fusion='prob_mean'),
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
