"""The branches follow the mean of their logits in every epoch, at a weight
that rises from 0.5 to 1.5.

    L_i = CE_i + w(t) 3^2 KL(softmax(z / 3) || softmax(z_i / 3)),
    z = mean_j z_j,  w(t) = 0.5 + t / (epochs - 1)

One of the two ideas of MCOD, growth, without gaps; a baseline of this
plugin's own. The target z is detached.
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
