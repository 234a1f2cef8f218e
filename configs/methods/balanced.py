"""The branches follow the mean of their logits in every epoch, and this pulls
at their logits 0.3 times as hard as the labels do, however many classes there
are.

    L_i = CE_i + 0.3 f_i 3^2 KL(softmax(z / 3) || softmax(z_i / 3)),
    z = mean_j z_j,  f_i = |gradient of CE_i| / |gradient of the KL term|

As always_on, but the weight of the schedule is in units of the ratio of both
gradients: f_i, of squared norms at the logits averaged over steps, is
detached as z is. A method of this plugin's own.
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
