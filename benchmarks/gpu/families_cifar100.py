"""The four families of the paper at full size on the complete CIFAR-100, for a
GPU: AlexNet, VGG-19-BN, ResNet-110 and DenseNet-BC-100-12, 80 epochs instead
of the recipe's 200. A validation every 2 epochs makes 40 points of a curve.

    python tools/compare.py benchmarks/gpu/families_cifar100.py

Other epochs make another study, whose results go elsewhere: change
train_cfg.max_epochs and results below. Where a GPU is lent for minutes only,
step.py trains it bit by bit; README.md tells the order of the runs and what
they take.
"""
config = '../../configs/mcod_alexnet_vgg_resnet_densenet_cifar100.py'
amp = True
settings = {
    'train_cfg.max_epochs': 80,
    'compile': dict(mode='reduce-overhead'),
    'train_dataloader.drop_last': True,
    'train_cfg.val_interval': 2,
    'val_evaluator.calibration_bins': 15,
}
methods = dict(solo='solo', mcod='mcod', always_on='always_on', dml='dml')
seeds = [0, 1, 2]
results = '../../docs/results/gpu_families_cifar100'
