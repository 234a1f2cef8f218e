"""When is distillation too strong? What the studies of this folder have in
common: they differ in the number of classes and in how much there is to
learn from.

- few: the networks take few steps;
- poor: about as many, on a few images of each class;
- long: the images of few, two to three times the steps.

Validated on training images that no run is trained on; no test image is
looked at. All in single precision.

    for study in benchmarks/cpu/balance/balance_*.py
    do python tools/compare.py $study --jobs 2; done
"""
config = '../../../configs/mcod_small_cifar100.py'
settings = {
    'val_dataloader.dataset.split': 'train',
    'val_evaluator.calibration_bins': 15,
}


def smooth():
    """Label smoothing for both networks."""
    return {
        f'model.branches.{branch}.head.loss': dict(
            type='LabelSmoothLoss', label_smooth_val=0.1)
        for branch in ('resnet', 'vgg')
    }


def cutmix():
    """CutMix of all images."""
    return {'model.train_cfg': dict(augments=dict(type='CutMix', alpha=1.0))}


methods = dict(
    solo='solo',
    # the first default
    mcod_constant='mcod_constant',
    always_on='always_on',
    # weaker
    on_w05=dict(
        method='always_on', settings={'custom_hooks.0.weight': (0.5, 0.5)}),
    # growing from nothing: over the run, or over its first part
    mcod_w0_1=dict(
        method='mcod_constant', settings={'custom_hooks.0.weight':
                                          (0.0, 1.0)}),
    slow_start_slower=dict(
        method='slow_start', settings={'custom_hooks.0.ramp': 0.5}),
    slow_start='slow_start',
    mcod_faster=dict(method='mcod', settings={'custom_hooks.0.ramp': 0.2}),
    mcod='mcod',
    # in units of the labels' pull
    balanced_01=dict(
        method='balanced', settings={'custom_hooks.0.weight': (0.1, 0.1)}),
    balanced_03='balanced',
    balanced_mcod=dict(
        method='balanced',
        settings={
            'custom_hooks.0.gap': (1, 0),
            'custom_hooks.0.weight': (0.0, 0.3)
        }),
    # where the teacher knows better
    correct=dict(
        method='always_on', settings={'model.distill.where': 'correct'}),
    surer=dict(method='always_on', settings={'model.distill.where': 'surer'}),
    standardized='standardized',
    # a run of some hundred steps is too short for 0.999
    averaged=dict(method='averaged', settings={'model.teacher.ema': 0.99}),
    # other losses and data than the default's
    dkd='dkd',
    dist='dist',
    features='features',
    # once the branches know something, as a trained teacher does, or not
    dkd_late=dict(
        method='dkd',
        settings={
            'custom_hooks.0.begin': 0.3,
            'custom_hooks.0.weight': (0.0, 1.0),
            'custom_hooks.0.ramp': 0.5
        }),
    dist_at_once=dict(
        method='dist',
        settings={
            'custom_hooks.0.begin': 0,
            'custom_hooks.0.weight': (1.0, 1.0),
            'custom_hooks.0.ramp': None
        }),
    views=dict(
        method='always_on',
        settings={'train_dataloader.dataset.views': True}),
    # all but the end
    release=dict(method='always_on', settings={'custom_hooks.0.end': 0.8}),
    # mean weights of 0.52, 0.72 and 1 over 25 epochs, at all times or at some
    on_w052=dict(
        method='always_on', settings={'custom_hooks.0.weight': (0.52, 0.52)}),
    on_off='on_off',
    off_on=dict(
        method='on_off',
        settings={
            'custom_hooks.0.begin': 1,
            'custom_hooks.0.weight': (13 / 12, 13 / 12)
        }),
    staggered='../methods/staggered.py',
    last_half=dict(method='always_on', settings={'custom_hooks.0.begin': 12}),
    on_w072=dict(
        method='always_on', settings={'custom_hooks.0.weight': (0.72, 0.72)}),
    long_phases=dict(
        method='mcod_constant',
        settings={
            'custom_hooks.0.on': 4,
            'custom_hooks.0.gap': (4, 0),
            'custom_hooks.0.weight': (1.125, 1.125)
        }),
    # what the shrinking gaps of mcod_constant come to, without gaps
    on_step=dict(
        method='always_on',
        settings={
            'custom_hooks.0.weight': (5 / 12, 1.0),
            'custom_hooks.0.curve': 'step'
        }),
    on_off_w2=dict(
        method='on_off',
        settings={'custom_hooks.0.weight': (25 / 13, 25 / 13)}),
    mcod_w2_1=dict(
        method='mcod_constant',
        settings={'custom_hooks.0.weight': (1.93, 1.0)}),
    # what else helps a network alone
    solo_smooth=dict(method='solo', settings=smooth()),
    solo_ema='../methods/solo_ema.py',
    solo_twice=dict(method='solo', settings={'train_cfg.max_epochs': 50}),
    # and whether distillation helps beside it
    solo_cutmix=dict(method='solo', settings=cutmix()),
    always_on_cutmix=dict(method='always_on', settings=cutmix()),
    mcod_cutmix=dict(method='mcod', settings=cutmix()))
contrasts = {
    # declared after the first seed
    'whether a slow start helps': [
        ('mcod', 'solo'),
        ('slow_start_slower', 'solo'),
        ('mcod', 'mcod_constant'),
        ('mcod', 'slow_start_slower'),
    ]
}
seeds = [0, 1, 2]
