"""The main pair on 64 images, 20 epochs: whether everything works, and no
more. See smoke.sh.
"""
config = '../../configs/mcod_resnet_vgg_cifar100.py'
amp = True
settings = {
    'train_dataloader.dataset.indices': 64,
    'val_dataloader.dataset.indices': 100,
    'train_cfg.max_epochs': 20,
    'train_cfg.val_interval': 5,
    'val_evaluator.calibration_bins': 15,
}
methods = dict(mcod='mcod')
seeds = [0]
results = '../../work_dirs/smoke/results'
