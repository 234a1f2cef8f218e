"""The branches follow the mean of the logits of their moving averages, at
weight 1 in every epoch.

    L_i = CE_i + 3^2 KL(softmax(z / 3) || softmax(z_i / 3)),
    z = mean_j z_j(average of the weights of j)

As always_on, but not the branches of the present step teach: their weights,
averaged exponentially over about the last thousand steps, do. A run should be
many times as long; for a shorter one set
``--cfg-options model.teacher.ema=0.99``.

The idea is that of Tarvainen and Valpola, Mean teachers are better role
models, NeurIPS 2017, https://arxiv.org/abs/1703.01780, and of the peer mean
teachers of Wu and Gong, Peer Collaborative Learning for Online Knowledge
Distillation, AAAI 2021, https://arxiv.org/abs/2006.04147. There each branch of
one network follows the averages of the others and a classifier on the
features of all; here it follows the ensemble of all averages. The targets are
detached.
"""
model = dict(
    teacher=dict(
        _delete_=True,
        type='mcod_plugin.EnsembleTeacher',
        fusion='mean',
        ema=0.999),
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
