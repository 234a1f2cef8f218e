"""Deep Mutual Learning (Zhang et al., CVPR 2018,
https://arxiv.org/abs/1706.00384): each branch follows each of its peers.

    L_i = CE_i + 1 / (B - 1) sum_{j != i} KL(softmax(z_j) || softmax(z_i))

This is equation 9 there, of B networks. The authors' code sums over the peers
instead, which is B - 1 times as much and for two networks the same:
``--cfg-options model.distill.reduction=sum``.

Temperature 1 and weight 1 throughout, as there; the peers are detached. There
the networks take their steps in turns, here all at once.
"""
model = dict(
    teacher=dict(_delete_=True, type='mcod_plugin.PeerTeacher'),
    distill=dict(
        _delete_=True, type='mcod_plugin.MutualKDLoss', temperature=1.0))

custom_hooks = [
    dict(
        type='mcod_plugin.DiscontinuousKDHook',
        on=1,
        gap=(0, 0),
        weight=(1.0, 1.0),
        curve='linear')
]
