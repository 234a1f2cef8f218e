"""MCOD-style, but the branches follow the mean of their probabilities instead
of their logits.

    L_i = CE_i + w(t) 3^2 KL(softmax(z / 3) || softmax(z_i / 3)),
    z = log mean_j softmax(z_j)

Schedule and temperature are those of mcod; a variant of this plugin's own.
The target z is detached.
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
        weight=(0.0, 1.0),
        curve='linear',
        ramp=0.5)
]
