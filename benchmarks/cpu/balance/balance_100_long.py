"""100 classes, 150 images of each, 20 epochs."""
_base_ = 'base.py'
settings = {
    'train_dataloader.dataset.per_class': (0, 150),
    'val_dataloader.dataset.per_class': (400, 500),
    'train_cfg.max_epochs': 20,
    'train_cfg.val_interval': 10,
}
results = '../../../docs/results/balance_100_long'
