"""100 classes, 60 images of each, 25 epochs: the cell of the most methods, in
which schedules of one dose are compared, and what else helps a network."""
_base_ = 'base.py'
settings = {
    'train_dataloader.dataset.per_class': (0, 60),
    'val_dataloader.dataset.per_class': (400, 500),
    'train_cfg.max_epochs': 25,
    'train_cfg.val_interval': 10,
}
contrasts = {
    # declared before the first run of a pair
    'when to distil, at one dose': [
        ('on_off', 'on_w052'),
        ('off_on', 'on_w052'),
        ('staggered', 'on_w052'),
        ('last_half', 'on_w052'),
        ('mcod_constant', 'on_step'),
        ('mcod_constant', 'on_w072'),
        ('long_phases', 'on_w072'),
        ('on_off_w2', 'always_on'),
        ('mcod_w2_1', 'always_on'),
    ],
    # where it does not, equal results of one dose say little
    'whether the dose matters': [('always_on', 'on_w052')],
    'how it compares with what helps alone': [
        ('mcod', 'solo_smooth'),
        ('mcod', 'solo_ema'),
        ('mcod', 'solo_twice'),
        ('mcod_cutmix', 'solo_cutmix'),
        ('always_on_cutmix', 'solo_cutmix'),
    ],
}
seeds = [0, 1, 2, 3]
results = '../../../docs/results/balance_100_poor'
