"""10 classes, 350 images of each, 75 epochs."""
_base_ = 'classes_10.py'
settings = {
    'train_dataloader.dataset.per_class': (0, 350),
    'val_dataloader.dataset.per_class': (350, 500),
    'train_cfg.max_epochs': 75,
    'train_cfg.val_interval': 25,
}
results = '../../../docs/results/balance_10_long'
