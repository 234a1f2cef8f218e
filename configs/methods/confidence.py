"""MCOD-style, but a branch counts the more in the ensemble for an image the
lower its cross entropy is there.

The weights are those of CA-MKD (https://arxiv.org/abs/2201.00007), here on
the logits. Schedule and temperature are those of mcod. The targets are
detached, the weights with them.
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
        weight=(1.0, 1.0),
        curve='linear')
]
