"""DIST (Huang et al., Knowledge Distillation from A Stronger Teacher, NeurIPS
2022, https://arxiv.org/abs/2205.10536): the branches follow the mean of their
logits in what it says of classes and images relative to each other.

    L_i = CE_i + 4^2 (2 (1 - mean_n corr(Q_n:, P_n:)) +
                      2 (1 - mean_c corr(Q_:c, P_:c)))
    P = softmax(z / 4),  Q = softmax(z_i / 4),  z = mean_j z_j

corr is Pearson's, of an image over the classes and of a class over the images
of the batch. Weights and temperature are those of the authors' code for
CIFAR-100; there the teacher was trained before, here it is the ensemble. What
does not vary has no correlation here. The target z is detached.
"""
model = dict(
    teacher=dict(
        _delete_=True, type='mcod_plugin.EnsembleTeacher', fusion='mean'),
    distill=dict(
        _delete_=True,
        type='mcod_plugin.DISTLoss',
        temperature=4.0,
        beta=2.0,
        gamma=2.0))

custom_hooks = [
    dict(
        type='mcod_plugin.DiscontinuousKDHook',
        on=1,
        gap=(0, 0),
        weight=(1.0, 1.0),
        curve='linear')
]
