"""MCOD-style at a constant weight, the default at first: the branches follow
the mean of their logits, one epoch on and then a gap, which shrinks from one
epoch to none over the run.

    L_i = CE_i + w(t) 3^2 KL(softmax(z / 3) || softmax(z_i / 3)),
    z = mean_j z_j,  w(t) = 1 in an epoch that is on, else 0

Distillation is discontinuous, and grows from every other epoch to all, but has
its full weight from the first epoch on. Those of docs/first_studies.md were
trained by it. The idea is that of Gao et al., Multistructure-Based
Collaborative Online Distillation, Entropy 2019, 21(4):357,
https://doi.org/10.3390/e21040357; formula and settings are this plugin's. The
target z is detached.
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
        gap=(1, 0),
        weight=(1.0, 1.0),
        curve='linear',
        begin=0,
        end=None,
        by_epoch=True)
]
