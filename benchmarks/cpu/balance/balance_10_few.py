"""10 classes, 350 images of each, 25 epochs."""
_base_ = 'classes_10.py'
settings = {
    'train_dataloader.dataset.per_class': (0, 350),
    'val_dataloader.dataset.per_class': (350, 500),
    'train_cfg.max_epochs': 25,
    'train_cfg.val_interval': 10,
}
results = '../../../docs/results/balance_10_few'
