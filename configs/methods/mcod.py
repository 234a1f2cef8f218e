"""MCOD-style: the branches follow the mean of their logits, one epoch on and
then a gap, which shrinks from one epoch to none over the run, at weight 1.

    L_i = CE_i + w(t) 3^2 KL(softmax(z / 3) || softmax(z_i / 3)),
    z = mean_j z_j,  w(t) = 1 in an epoch that is on, else 0

So distillation is discontinuous, and grows from every other epoch to all. A
weight that rises besides (``weight=(0.5, 1.5)``) did not pay where it was
tried, see docs/results.md.

The idea is that of Gao et al., Multistructure-Based Collaborative Online
Distillation, Entropy 2019, 21(4):357, https://doi.org/10.3390/e21040357, for
which there is no public code; formula and settings are this plugin's. The
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
