"""10 classes, 60 images of each, 120 epochs."""
_base_ = 'classes_10.py'
settings = {
    'train_dataloader.dataset.per_class': (0, 60),
    'val_dataloader.dataset.per_class': (350, 500),
    'train_cfg.max_epochs': 120,
    'train_cfg.val_interval': 40,
}
results = '../../../docs/results/balance_10_poor'
