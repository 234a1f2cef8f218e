"""The branches follow the mean of their logits in every epoch, of which only
the relations count (Sun et al., Logit Standardization in Knowledge
Distillation, CVPR 2024, https://arxiv.org/abs/2403.01427): both sides are
divided by their standard deviation over the classes first.

    L_i = CE_i + 2^2 KL(softmax(Z(z) / 2) || softmax(Z(z_i) / 2)),
    z = mean_j z_j,  Z(x) = (x - mean(x)) / std(x)

Temperature 2 is the authors'; their code has a weight of 9 for a teacher that
was trained before, and the standard deviation of a sample (divided by C - 1).
The target z is detached.
"""
model = dict(
    teacher=dict(
        _delete_=True, type='mcod_plugin.EnsembleTeacher', fusion='mean'),
    distill=dict(
        _delete_=True,
        type='mcod_plugin.DiscontinuousKDLoss',
        temperature=2.0,
        standardize=True))

custom_hooks = [
    dict(
        type='mcod_plugin.DiscontinuousKDHook',
        on=1,
        gap=(0, 0),
        weight=(1.0, 1.0),
        curve='linear')
]
