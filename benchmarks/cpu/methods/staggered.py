"""The branches follow the mean of their logits at weight 1 in turn: the ResNet
in even epochs, the VGG in odd ones.

    L_i = CE_i + w_i(t) 3^2 KL(softmax(z / 3) || softmax(z_i / 3)),
    z = mean_j z_j,  w_resnet(t) = 1, 0, 1, 0, ...,  w_vgg(t) = 0, 1, 0, 1, ...

The dose of ``on_off``, but no two networks are pulled towards each other at
once. The target z is detached.
"""
_base_ = '../../../configs/methods/on_off.py'
custom_hooks = [
    dict(_base_.custom_hooks[0], branches=[branch], begin=begin)
    for begin, branch in enumerate(('resnet', 'vgg'))
]
