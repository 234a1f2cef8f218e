"""ONE-style (Lan et al., Knowledge Distillation by On-the-Fly Native Ensemble,
NeurIPS 2018, https://arxiv.org/abs/1806.04606): a learned gate weighs the
branches, and the ensemble has a cross entropy of its own.

Temperature 3 and weight 1, as there. ONE's branches have their low layers in
common, and its gate sees the features of these; here the gate sees the
branches' probabilities, detached. The targets are detached, the ensemble's
cross entropy reaches the gate and the branches.

ONE's weight is 1 from epoch 80 of 300 on, after it rose along the curve exp;
a weight that rises here does so over the whole run, so that it is 1
throughout. A rise is --cfg-options custom_hooks.0.weight=0.0067,1
custom_hooks.0.curve=exp
"""
model = dict(
    teacher=dict(_delete_=True, type='mcod_plugin.GatedTeacher'),
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
