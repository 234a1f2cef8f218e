"""The branches follow the mean of their logits in every epoch, of which only
the relations count (Sun et al., Logit Standardization in Knowledge
Distillation, CVPR 2024, https://arxiv.org/abs/2403.01427): both sides are
divided by their standard deviation over the classes first.

Temperature 2 is the authors'; their weight of 9 is for a teacher that was
trained before, here it is 1 as in always_on. The targets are detached.
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
