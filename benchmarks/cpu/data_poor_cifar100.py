"""CIFAR-100 with 60 images a class, where networks overfit: ResNet-20 and a
VGG-11-BN of half the width, 40 epochs, the complete test images.

    python tools/compare.py benchmarks/cpu/data_poor_cifar100.py --jobs 2
"""
config = '../../configs/mcod_small_cifar100.py'
amp = True
settings = {
    'model.branches.resnet.backbone.depth': 20,
    'model.branches.vgg.backbone.width': 32,
    'train_dataloader.dataset.per_class': (0, 60),
    'train_cfg.max_epochs': 40,
    'train_cfg.val_interval': 4,
    'val_evaluator.calibration_bins': 15,
}
methods = dict(
    solo='solo',
    always_on='always_on',
    # the dose of on_off, all the time
    on_w05=dict(
        method='always_on', settings={'custom_hooks.0.weight': (0.5, 0.5)}),
    ramp='ramp',
    on_off='on_off',
    mcod_constant='mcod_constant',
    # the default, whose weight grows from nothing
    mcod='mcod',
    dml='dml',
    mean_t4_w05='mean_t4_w05',
    min_logit_t4_w05='min_logit_t4_w05',
    # the VGG of the solo run of the same seed, frozen, teaches the ResNet
    kd=dict(
        method='kd',
        settings={
            'model.teacher.members': ['vgg'],
            'model.branches.vgg.frozen':
            True,
            'model.branches.vgg.init_cfg':
            dict(
                type='Pretrained',
                checkpoint='{checkpoint of solo}',
                prefix='branches.vgg'),
        }))
contrasts = {
    # declared when seeds 0 to 2 of all but on_w05 were known, before any run
    # of on_w05 and before seeds 3 to 7
    'whether it helps': [
        ('mcod', 'solo'),
        ('always_on', 'solo'),
        ('on_w05', 'solo'),
    ],
    'which schedule': [
        ('mcod', 'always_on'),
        ('mcod', 'on_w05'),
        ('always_on', 'on_w05'),
    ],
    'when to distil, at one dose': [('on_off', 'on_w05')],
}
# eight seeds of solo, always_on, on_w05 and mcod, three of the others
seeds = [0, 1, 2, 3, 4, 5, 6, 7]
results = '../../docs/results/data_poor_cifar100'
