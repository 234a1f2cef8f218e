"""KDCL-MinLogit (Guo et al., Online Knowledge Distillation via Collaborative
Learning, CVPR 2020): for each class, the target is the least of the branches'
logits relative to that of the true class.

Temperature 4 and weight 0.5 throughout are those of the public
re-implementations. The targets are detached. All branches see the same
images, whereas KDCL distorts them for each network apart.
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
