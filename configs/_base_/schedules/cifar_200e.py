# SGD with Nesterov momentum at batch 128, cosine to zero at the end of the
# run, however many epochs train_cfg.max_epochs asks for.
optim_wrapper = dict(
    optimizer=dict(
        type='SGD', lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4))

param_scheduler = [dict(type='CosineAnnealingLR', by_epoch=True, eta_min=0)]

train_cfg = dict(by_epoch=True, max_epochs=200, val_interval=1)
val_cfg = dict()
test_cfg = dict()

auto_scale_lr = dict(base_batch_size=128)
