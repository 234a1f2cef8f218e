"""20 superclasses, 300 images of each, 45 epochs."""
_base_ = 'classes_20.py'
settings = {
    'train_dataloader.dataset.per_class': (0, 300),
    'val_dataloader.dataset.per_class': (2000, 2250),
    'train_cfg.max_epochs': 45,
    'train_cfg.val_interval': 15,
}
results = '../../../docs/results/balance_20_long'
