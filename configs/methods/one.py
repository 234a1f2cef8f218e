"""ONE-style (Lan et al., Knowledge Distillation by On-the-Fly Native Ensemble,
NeurIPS 2018, https://arxiv.org/abs/1806.04606): a learned gate weighs the
branches, and the ensemble has a cross entropy of its own.

    L = CE(z, y) + sum_i CE_i + w(t) 3^2 KL(softmax(z / 3) || softmax(z_i / 3))
    z = sum_j g_j z_j,  g = softmax(ReLU(BN(W [p_1 ... p_B] + b)))

Temperature, the gate's batch norm and ReLU, and the weight are those of the
authors' code: w(t) = exp(-5 (1 - t / 80)^2) up to epoch 80 of 300, 1 from
there on. To their targets they add 1e-7, and the branches have their low
layers in common, whose features the gate sees; here it sees the branches'
probabilities p_j, detached. In the KL term z is detached; CE(z, y) reaches the
gate and the branches.
"""
model = dict(
    teacher=dict(
        _delete_=True, type='mcod_plugin.GatedTeacher', norm=True),
    distill=dict(
        _delete_=True, type='mcod_plugin.DiscontinuousKDLoss',
        temperature=3.0))

custom_hooks = [
    dict(
        type='mcod_plugin.DiscontinuousKDHook',
        on=1,
        gap=(0, 0),
        weight=(0.006738, 1.0),
        curve='exp',
        ramp=0.2667)
]
