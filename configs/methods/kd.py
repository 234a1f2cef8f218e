"""Traditional knowledge distillation (Hinton et al.,
https://arxiv.org/abs/1503.02531): one branch is trained already, is frozen
and teaches the others, which do not teach.

    L_i = CE_i + 3^2 KL(softmax(z / 3) || softmax(z_i / 3)),  z of the teacher

Which one, and where its weights are, must be told; without it the config is
refused. For a branch vgg that was trained by --method solo before:

    ... --method kd --cfg-options model.teacher.members=vgg
        model.branches.vgg.frozen=True
        model.branches.vgg.init_cfg.type=Pretrained
        model.branches.vgg.init_cfg.prefix=branches.vgg
        model.branches.vgg.init_cfg.checkpoint=CHECKPOINT

CHECKPOINT is that of its run, such as work_dirs/CONFIG_solo/epoch_200.pth.
Temperature 3 and weight 1 are those of always_on, so that the two differ by
the teacher alone; public code (mdistiller) has 4 and 0.1 CE + 0.9 KD.
"""
model = dict(
    teacher=dict(
        _delete_=True,
        type='mcod_plugin.EnsembleTeacher',
        fusion='mean',
        members=[]),
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
