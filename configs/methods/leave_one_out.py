"""MCOD-style, but each branch follows the mean of the others' logits, without
its own.

    L_i = CE_i + w(t) 3^2 KL(softmax(z / 3) || softmax(z_i / 3)),
    z = mean_{j != i} z_j

Schedule and temperature are those of mcod. The target of CL-ILR (Song and
Chai, Collaborative Learning for Deep Neural Networks, NeurIPS 2018,
https://arxiv.org/abs/1805.11761) is the same; there branches have their low
layers in common, temperature 2 and 0.5 CE + 0.5 KD. The target is detached.
"""
model = dict(
    teacher=dict(
        _delete_=True,
        type='mcod_plugin.EnsembleTeacher',
        fusion='mean',
        leave_one_out=True),
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
