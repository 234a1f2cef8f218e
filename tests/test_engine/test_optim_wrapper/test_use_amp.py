import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper

from mcod_plugin.engine.optim_wrapper import autocast_optim_wrapper, use_amp
from mcod_plugin.errors import ConfigError


def amp(**settings):
    cfg = Config(dict(optim_wrapper=dict(optimizer={}, **settings)))
    use_amp(cfg)
    cfg.optim_wrapper.pop('optimizer')
    return cfg.optim_wrapper


@pytest.fixture
def on(monkeypatch):
    """Makes the tools think that they are on another device."""

    def become(device, bfloat16=True):
        monkeypatch.setattr(autocast_optim_wrapper, 'get_device',
                            lambda: device)
        monkeypatch.setattr(torch.cuda, 'is_bf16_supported',
                            lambda including_emulation=True: bfloat16)

    return become


OURS = dict(type='mcod_plugin.AutocastOptimWrapper')
SCALED = dict(type='AmpOptimWrapper', loss_scale='dynamic')


@pytest.mark.parametrize('settings', [
    dict(),
    dict(type=None),
    dict(type='OptimWrapper'),
    dict(type='AmpOptimWrapper', loss_scale=512., dtype=None),
    dict(type='mmengine.AmpOptimWrapper', dtype='bfloat16'),
    dict(type=OptimWrapper),
    dict(OURS, dtype='bfloat16'),
    dict(OURS, dtype='auto'),
])
def test_amp_is_bfloat16_where_there_is_bfloat16(on, settings):
    for device in ('cpu', 'cuda'):
        on(device)
        assert amp(**settings) == OURS
    on('cuda', bfloat16=False)
    assert amp(**settings) == {
        **SCALED, 'loss_scale': settings.get('loss_scale', 'dynamic')
    }


def test_amp_keeps_float16_that_is_asked_for(on):
    on('cuda')
    settings = dict(type='AmpOptimWrapper', dtype='float16')
    assert amp(**settings) == dict(SCALED, dtype='float16')
    on('cpu')
    with pytest.raises(ConfigError, match='dtype float16 needs a GPU'):
        amp(**settings)


def test_amp_with_other_wrappers():
    with pytest.raises(ConfigError, match='must be one of.*ApexOptimWrapper'):
        amp(type='ApexOptimWrapper')
