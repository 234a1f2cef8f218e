"""100 classes, 60 images of each, 25 epochs."""
_base_ = 'base.py'
settings = {
    'train_dataloader.dataset.per_class': (0, 60),
    'val_dataloader.dataset.per_class': (400, 500),
    'train_cfg.max_epochs': 25,
    'train_cfg.val_interval': 10,
}
results = '../../../docs/results/balance_100_poor'
