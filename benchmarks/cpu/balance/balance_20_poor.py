"""20 superclasses, 60 images of each, 60 epochs."""
_base_ = 'classes_20.py'
settings = {
    'train_dataloader.dataset.per_class': (0, 60),
    'val_dataloader.dataset.per_class': (2000, 2250),
    'train_cfg.max_epochs': 60,
    'train_cfg.val_interval': 30,
}
results = '../../../docs/results/balance_20_poor'
