import copy

from mmengine.config import Config
from torch.optim import SGD

from mcod_plugin.runs.config_changes import (config_changes, json_config,
                                             keep_settings)


def config():
    return Config(
        dict(
            work_dir='a',
            optim_wrapper=dict(
                optimizer=dict(type=SGD, lr=.1, betas=(1, 2)), clip_grad=None),
            param_scheduler=[dict(type='CosineAnnealingLR', T_max=3)],
            model=dict(
                branches=dict(
                    a=dict(
                        lr_mult=2,
                        optimizer=dict(type=SGD, lr=.1),
                        backbone=dict(depth=8)))),
            custom_hooks=[dict(type='A')],
            randomness=dict(seed=1)))


def test_nothing_has_changed():
    cfg = config()
    before = json_config(cfg)
    cfg.work_dir, cfg.load_from, cfg.resume = 'b', 'c.pth', True
    assert config_changes(before, json_config(cfg)) == []
    same = copy.deepcopy(cfg.to_dict())
    keep_settings(cfg, before)
    assert cfg.to_dict() == same


def test_json():
    found = json_config(config())
    assert found['optim_wrapper']['optimizer']['type'] == 'torch.optim.sgd.SGD'
    assert found['optim_wrapper']['optimizer']['betas'] == [1, 2]


def test_changes():
    before, cfg = json_config(config()), config()
    cfg.merge_from_dict({
        'optim_wrapper.optimizer.lr': .2,
        'optim_wrapper.optimizer.nesterov': True,
        'optim_wrapper.optimizer.fused': True,
        # a name with a dot
        'optim_wrapper.paramwise_cfg': dict(
            custom_keys={'a.b': dict(lr_mult=1)}),
        'param_scheduler.0.T_max': 4,
        'model.branches.a.decay_mult': 3,
        'model.branches.a.optimizer.lr': .2,
        'model.branches.a.optimizer.foreach': True,
        'model.branches.a.clip_grad': dict(max_norm=1),
        'model.branches.a.backbone.drop_rate': .5,
        'randomness.seed': 2,
    })
    cfg.optim_wrapper.clip_grad = dict(max_norm=1)
    del cfg.model.branches.a['lr_mult']
    cfg.custom_hooks = [*cfg.custom_hooks, dict(type='B')]
    now = json_config(cfg)
    found = config_changes(before, now)
    effects = {row['setting']: row['takes_effect'] for row in found}
    assert effects == {
        'optim_wrapper.optimizer.lr': False,
        'optim_wrapper.optimizer.nesterov': False,
        'optim_wrapper.optimizer.fused': True,
        'optim_wrapper.paramwise_cfg.custom_keys.a.b.lr_mult': False,
        'optim_wrapper.clip_grad': True,
        'optim_wrapper.clip_grad.max_norm': True,
        'param_scheduler.0.T_max': False,
        'model.branches.a.lr_mult': False,
        'model.branches.a.decay_mult': False,
        'model.branches.a.optimizer.lr': False,
        'model.branches.a.optimizer.foreach': True,
        'model.branches.a.clip_grad.max_norm': True,
        'model.branches.a.backbone.drop_rate': True,
        'custom_hooks.1.type': True,
        'randomness.seed': False,
    }
    rows = {row['setting']: row for row in found}
    row = rows['optim_wrapper.optimizer.lr']
    assert (row['before'], row['now']) == (.1, .2)
    assert 'now' not in rows['model.branches.a.lr_mult']
    assert 'before' not in rows['custom_hooks.1.type']

    # The config is then what takes effect, and classes stay classes.
    keep_settings(cfg, before)
    expected = config()
    expected.optim_wrapper.optimizer.fused = True
    expected.optim_wrapper.clip_grad = dict(max_norm=1)
    expected.model.branches.a.backbone.drop_rate = .5
    expected.model.branches.a.optimizer.foreach = True
    expected.model.branches.a.clip_grad = dict(max_norm=1)
    expected.custom_hooks = [dict(type='A'), dict(type='B')]
    assert json_config(cfg) == json_config(expected)
    assert cfg.optim_wrapper.optimizer.type is SGD
    rest = config_changes(before, json_config(cfg))
    assert all(row['takes_effect'] for row in rest)


def test_settings_are_not_shared():
    before, cfg = json_config(config()), config()
    saved = copy.deepcopy(before)
    cfg.param_scheduler[0].T_max = 9
    keep_settings(cfg, before)
    cfg.param_scheduler[0].T_max = 10
    assert before == saved


def test_what_only_one_of_them_has():
    """At the top, and within what the other lacks as a whole."""
    before, cfg = json_config(config()), config()
    cfg.auto_scale_lr = dict(base_batch_size=64)
    cfg.pop('param_scheduler')
    cfg.randomness = None
    cfg.pop('randomness')
    cfg.model.branches.b = dict(
        backbone=dict(init_cfg=dict(type='Pretrained'), depth=3))
    keep_settings(cfg, before)
    assert 'auto_scale_lr' not in cfg
    assert cfg.param_scheduler == before['param_scheduler']
    assert cfg.randomness == dict(seed=1)
    assert cfg.model.branches.b == dict(backbone=dict(depth=3))
    cfg = config()
    cfg.pop('randomness')
    before = json_config(cfg)
    cfg.randomness = dict(seed=7)
    keep_settings(cfg, before)
    assert 'randomness' not in cfg
