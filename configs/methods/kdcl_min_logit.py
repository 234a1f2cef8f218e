"""KDCL-MinLogit (Guo et al., Online Knowledge Distillation via Collaborative
Learning, CVPR 2020, section 3.2): for each class, the target is the least of
the branches' logits relative to that of the true class y.

    L_i = 0.5 CE_i + 0.5 4^2 KL(softmax(z / 4) || softmax(z_i / 4)),
    z_c = min_j (z_jc - z_jy)

No public code has this target; weights and temperature are those that it has
for the mean, see kdcl_mean. The paper distorts the images for each network
apart; here all branches see the same unless the data give them views of their
own, which for images in memory is ``train_dataloader.dataset.views=True``. A
mixed label counts by its shares. The target z is detached. A branch with a
``loss_weight`` of its own keeps it.
"""
model = dict(
    loss_weight=0.5,
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
        weight=(1.0, 1.0),
        curve='linear')
]
