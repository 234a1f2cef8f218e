"""MCOD-style: the branches follow the mean of their logits, one epoch on and
then a gap. In the first half of the run the gap shrinks from one epoch to none
and the weight grows from 0 to 1; in the second half both stay.

    L_i = CE_i + w(t) 3^2 KL(softmax(z / 3) || softmax(z_i / 3)),
    z = mean_j z_j,  w(t) = min(2 t / epochs, 1) in an epoch that is on, else 0

So distillation is discontinuous, and its constraint grows. It starts from
nothing since networks that are not trained yet are held back by each other: at
a constant weight (``mcod_constant``) they lose accuracy on few classes, see
docs/results.md.

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
        weight=(0.0, 1.0),
        curve='linear',
        ramp=0.5,
        begin=0,
        end=None,
        by_epoch=True)
]
