"""How strongly, how often and by which curve, and what helps beside it?
Schedules, settings of the teacher, other losses and more data or time in the
data-poor regime of data_poor_cifar100.py, told apart on training images that
no run is trained on. No test image is looked at.

    python tools/compare.py benchmarks/cpu/tuning_cifar100.py --jobs 2
"""
config = '../../configs/mcod_small_cifar100.py'
amp = True
settings = {
    'model.branches.resnet.backbone.depth': 20,
    'model.branches.vgg.backbone.width': 32,
    'train_dataloader.dataset.per_class': (0, 60),
    'val_dataloader.dataset.split': 'train',
    'val_dataloader.dataset.per_class': (400, 500),
    'train_cfg.max_epochs': 40,
    'train_cfg.val_interval': 20,
}


def cutmix():
    """CutMix of all images."""
    return {'model.train_cfg': dict(augments=dict(type='CutMix', alpha=1.0))}


def schedule(gap, weight, **others):
    """Settings of the schedule."""
    values = dict(gap=gap, weight=weight, **others)
    return {f'custom_hooks.0.{key}': value for key, value in values.items()}


methods = dict(
    solo='solo',
    # always on, of constant weight
    always_on='always_on',
    on_w05=dict(method='always_on', settings=schedule((0, 0), (0.5, 0.5))),
    # gaps of one epoch at first, weight rising
    gap1_w05_15=dict(
        method='mcod_constant', settings=schedule((1, 0), (0.5, 1.5))),
    gap4_w01_1=dict(
        method='mcod_constant', settings=schedule((4, 0), (0.1, 1.0))),
    ramp_w01_1=dict(
        method='mcod_constant', settings=schedule((0, 0), (0.1, 1.0))),
    gap1_w1_2=dict(
        method='mcod_constant', settings=schedule((1, 0), (1.0, 2.0))),
    mcod_constant=dict(
        method='mcod_constant', settings=schedule((1, 0), (1.0, 1.0))),
    gap1_w075_125=dict(
        method='mcod_constant', settings=schedule((1, 0), (0.75, 1.25))),
    # growing from nothing in the first half of the run, or in a fifth
    slow_start_slower=dict(
        method='mcod', settings=schedule((0, 0), (0.0, 1.0))),
    mcod='mcod',
    slow_start=dict(
        method='mcod', settings=schedule((0, 0), (0.0, 1.0), ramp=0.2)),
    mcod_faster=dict(method='mcod', settings={'custom_hooks.0.ramp': 0.2}),
    # phases and gaps of single iterations
    iter_gap1_w1_2=dict(
        method='mcod_constant',
        settings=schedule((1, 0), (1.0, 2.0), by_epoch=False)),
    # on their own at the end
    on_w1_end32=dict(
        method='always_on', settings=schedule((0, 0), (1.0, 1.0), end=32)),
    gap1_w1_end32=dict(
        method='mcod_constant', settings=schedule((1, 0), (1.0, 1.0), end=32)),
    gap1_w1_15_end32=dict(
        method='mcod_constant', settings=schedule((1, 0), (1.0, 1.5), end=32)),
    # the other way round: gaps that grow
    gap03_w1=dict(
        method='mcod_constant', settings=schedule((0, 3), (1.0, 1.0))),
    on_t6=dict(
        method='always_on', settings={'model.distill.temperature': 6.0}),
    on_prob_mean=dict(
        method='always_on', settings={'model.teacher.fusion': 'prob_mean'}),
    # what else helps networks that overfit, alone or together
    solo_twice=dict(method='solo', settings={'train_cfg.max_epochs': 80}),
    solo_cutmix=dict(method='solo', settings=cutmix()),
    always_on_cutmix=dict(method='always_on', settings=cutmix()),
    views=dict(
        method='always_on',
        settings={'train_dataloader.dataset.views': True}),
    averaged=dict(method='averaged', settings={'model.teacher.ema': 0.99}),
    dist='dist')
contrasts = {
    # declared before the first run of a pair but for that of always_on
    'what brings more than always on': [
        ('views', 'always_on'),
        ('averaged', 'always_on'),
        ('dist', 'always_on'),
        ('always_on_cutmix', 'always_on'),
        ('solo_twice', 'always_on'),
    ],
    'whether distillation helps beside CutMix': [
        ('always_on_cutmix', 'solo_cutmix'),
    ],
}
seeds = [0, 1]
results = '../../docs/results/tuning_cifar100'
