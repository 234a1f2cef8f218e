"""Deep Mutual Learning (Zhang et al., CVPR 2018,
https://arxiv.org/abs/1706.00384): each branch follows each of its peers.

Temperature 1 and weight 1 throughout, as there; the divergences are averaged
over the peers, which are detached. All branches take their step at once, not
in turns.
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
