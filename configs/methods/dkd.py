"""DKD (Zhao et al., Decoupled Knowledge Distillation, CVPR 2022,
https://arxiv.org/abs/2203.08679): the branches follow the mean of their
logits, and the class of the label is weighted apart from all others.

    L_i = CE_i + w(t) 4^2 (1 TCKD + 8 NCKD)
    TCKD = KL((p_y, 1 - p_y) || (q_y, 1 - q_y))
    NCKD = KL(p / (1 - p_y) || q / (1 - q_y)) over all classes but y
    p = softmax(z / 4),  q = softmax(z_i / 4),  z = mean_j z_j

Weights and temperature are those of the authors' code (mdistiller) for
CIFAR-100, and so is w(t), which rises from 0.05 to 1 over 20 of 240 epochs.
There the teacher was trained before, here it is the ensemble. A mixed label
counts by its shares. The target z is detached.
"""
model = dict(
    teacher=dict(
        _delete_=True, type='mcod_plugin.EnsembleTeacher', fusion='mean'),
    distill=dict(
        _delete_=True,
        type='mcod_plugin.DKDLoss',
        temperature=4.0,
        alpha=1.0,
        beta=8.0))

custom_hooks = [
    dict(
        type='mcod_plugin.DiscontinuousKDHook',
        on=1,
        gap=(0, 0),
        weight=(0.05, 1.0),
        curve='linear',
        ramp=0.0792)
]
