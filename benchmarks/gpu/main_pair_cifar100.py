"""The main pair on the complete CIFAR-100, for a GPU: ResNet-32 and VGG-16-BN,
120 epochs instead of the recipe's 200, with CUDA graphs. A validation every 5
epochs makes 24 points of a curve.

    python tools/compare.py benchmarks/gpu/main_pair_cifar100.py

Where a GPU is lent for minutes only, step.py trains it bit by bit; README.md
tells the order of the runs and what they take.
"""
config = '../../configs/mcod_resnet_vgg_cifar100.py'
amp = True
settings = {
    'train_cfg.max_epochs': 120,
    'compile': dict(mode='reduce-overhead'),
    'train_dataloader.drop_last': True,
    'train_cfg.val_interval': 5,
    'val_evaluator.calibration_bins': 15,
}
methods = dict(
    solo='solo',
    mcod_constant='mcod_constant',
    mcod='mcod',
    always_on='always_on',
    dml='dml')
seeds = [0, 1, 2]
results = '../../docs/results/gpu_main_pair_cifar100'
