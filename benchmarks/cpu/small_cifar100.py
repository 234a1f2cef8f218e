"""CIFAR-100 with 200 images a class: ResNet-8 and a VGG-11-BN of a quarter
of the width, 25 epochs, the complete test images.

    python tools/compare.py benchmarks/cpu/small_cifar100.py --jobs 2
"""
config = '../../configs/mcod_small_cifar100.py'
amp = True
settings = {
    'train_dataloader.dataset.per_class': (0, 200),
    'train_cfg.max_epochs': 25,
    'val_evaluator.calibration_bins': 15,
}
methods = dict(
    solo='solo',
    always_on='always_on',
    ramp='ramp',
    on_off='on_off',
    mcod_constant='mcod_constant',
    dml='dml',
    mean_t4_w05='mean_t4_w05',
    min_logit_t4_w05='min_logit_t4_w05')
seeds = [0, 1, 2]
results = '../../docs/results/small_cifar100'
