"""The four families of the paper in small versions where networks overfit:
AlexNet, a VGG-11-BN of half the width, ResNet-20 and DenseNet-BC-22-8 on 60
images a class of CIFAR-100, 40 epochs, the complete test images. One seed.

    python tools/compare.py benchmarks/cpu/small_families_cifar100.py --jobs 2

benchmarks/gpu/families_cifar100.py has the families at full size.
"""
config = '../../configs/mcod_alexnet_vgg_resnet_densenet_cifar100.py'
amp = True
settings = {
    'model.branches.vgg.backbone':
    dict(_delete_=True, type='mcod_plugin.CifarVGG', depth=11, width=32),
    'model.branches.resnet.backbone.depth':
    20,
    'model.branches.densenet.backbone.depth':
    22,
    'model.branches.densenet.backbone.growth':
    8,
    'train_dataloader.dataset.per_class': (0, 60),
    'train_cfg.max_epochs':
    40,
    'train_cfg.val_interval':
    4,
    'val_evaluator.calibration_bins':
    15,
}
methods = dict(
    solo='solo', always_on='always_on', mcod_constant='mcod_constant')
seeds = [0]
results = '../../docs/results/small_families_cifar100'
