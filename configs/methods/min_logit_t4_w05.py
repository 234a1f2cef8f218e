"""The branches follow the least of their logits relative to that of the true
class y, in every epoch, at temperature 4 and weight 0.5.

    L_i = CE_i + 0.5 4^2 KL(softmax(z / 4) || softmax(z_i / 4)),
    z_c = min_j (z_jc - z_jy)

In docs/first_studies.md this was trained as KDCL-MinLogit; its weights are
nobody's, see kdcl_min_logit. The target z is detached.
"""
model = dict(
    teacher=dict(
        _delete_=True, type='mcod_plugin.EnsembleTeacher', fusion='min_logit'),
    distill=dict(
        _delete_=True, type='mcod_plugin.DiscontinuousKDLoss',
        temperature=4.0))

custom_hooks = [
    dict(
        type='mcod_plugin.DiscontinuousKDHook',
        on=1,
        gap=(0, 0),
        weight=(0.5, 0.5),
        curve='linear')
]
