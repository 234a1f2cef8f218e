"""Knowledge distillation by collaborative learning (KDCL; Guo et al., Online
Knowledge Distillation via Collaborative Learning, CVPR 2020) with the mean of
the logits for the target.

    L_i = 0.5 CE_i + 0.5 4^2 KL(softmax(z / 4) || softmax(z_i / 4)),
    z = mean_j z_j

This is what public code trains: OKDPH (tianlizhang) to the letter, that of
shaoeric with the sum of the logits for their mean. The paper has better
targets than the mean (see kdcl_min_logit), and distorts the images for each
network apart, as the public code does; here all branches see the same unless
the data give them views of their own, which for images in memory is
``train_dataloader.dataset.views=True``. The target z is detached. A branch
with a ``loss_weight`` of its own keeps it.
"""
model = dict(
    loss_weight=0.5,
    teacher=dict(
        _delete_=True, type='mcod_plugin.EnsembleTeacher', fusion='mean'),
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
