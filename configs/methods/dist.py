"""DIST (Huang et al., Knowledge Distillation from A Stronger Teacher, NeurIPS
2022, https://arxiv.org/abs/2205.10536): the branches follow the mean of their
logits in what it says of classes and images relative to each other, from 30 %
of the run on.

    L_i = CE_i + w(t) (2 (1 - mean_n corr(Q_n:, P_n:)) +
                       2 (1 - mean_c corr(Q_:c, P_:c)))
    P = softmax(z),  Q = softmax(z_i),  z = mean_j z_j
    w(t) = 0 up to 0.3 of the epochs, then grows to 1 in half of all epochs

corr is Pearson's, of an image over the classes and of a class over the images
of the batch. Weights and temperature are those of the authors' code for
ImageNet. For CIFAR-100 it has temperature 4, and a factor of 4^2. The late
start is ours: there the teacher was trained before, here it is the ensemble,
and correlations pull as hard at networks that know nothing yet, so that from
the first epoch on they agree with each other and stay near chance
(docs/results.md). What does not vary has no correlation here. The target z is
detached.
"""
model = dict(
    teacher=dict(
        _delete_=True, type='mcod_plugin.EnsembleTeacher', fusion='mean'),
    distill=dict(
        _delete_=True,
        type='mcod_plugin.DISTLoss',
        temperature=1.0,
        beta=2.0,
        gamma=2.0))

custom_hooks = [
    dict(
        type='mcod_plugin.DiscontinuousKDHook',
        on=1,
        gap=(0, 0),
        weight=(0.0, 1.0),
        curve='linear',
        begin=0.3,
        ramp=0.5)
]
