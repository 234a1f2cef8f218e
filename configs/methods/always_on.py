"""The branches follow the mean of their logits, at weight 1 in every epoch.

    L_i = CE_i + 3^2 KL(softmax(z / 3) || softmax(z_i / 3)),  z = mean_j z_j

Distillation by the ensemble without the two ideas of MCOD, gaps and growth;
a baseline of this plugin's own. The target z is detached.
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
        weight=(1.0, 1.0),
        curve='linear')
]
