"""The branches follow the mean of their logits at weight 1 in turn: the ResNet
in even epochs, the VGG in odd ones.

    L_i = CE_i + w_i(t) 3^2 KL(softmax(z / 3) || softmax(z_i / 3)),
    z = mean_j z_j,  w_resnet(t) = 1, 0, 1, 0, ...,  w_vgg(t) = 0, 1, 0, 1, ...

The dose of ``on_off``, but no two networks are pulled towards each other at
once. The target z is detached.
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
        branches=[branch],
        on=1,
        gap=(1, 1),
        weight=(1.0, 1.0),
        curve='linear',
        begin=begin) for begin, branch in enumerate(('resnet', 'vgg'))
]
