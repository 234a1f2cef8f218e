"""MCOD-style, but a branch counts the more in the ensemble for an image the
lower its cross entropy is there.

    L_i = CE_i + w(t) 3^2 KL(softmax(z / 3) || softmax(z_i / 3)),
    z = sum_j v_j z_j,  v_j = (1 - softmax_j(CE_1 ... CE_B)) / (B - 1)

The weights v_j are those of Zhang et al., Confidence-Aware Multi-Teacher
Knowledge Distillation (CA-MKD), ICASSP 2022, https://arxiv.org/abs/2201.00007.
There they weigh the losses of teachers that were trained before, here the
logits. Schedule and temperature are those of mcod. The targets are detached,
the weights with them.
"""
model = dict(
    teacher=dict(
        _delete_=True, type='mcod_plugin.EnsembleTeacher',
        fusion='confidence'),
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
