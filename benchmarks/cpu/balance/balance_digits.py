"""Handwritten digits, a quick one: 10 classes, 110 images of each, 12 epochs.
"""
_base_ = 'base.py'
config = '../../../configs/mcod_quickstart.py'
settings = {
    'train_dataloader.dataset.per_class': (0, 110),
    'val_dataloader.dataset.per_class': (110, None),
    'train_cfg.val_interval': 6,
}
results = '../../../docs/results/balance_digits'
