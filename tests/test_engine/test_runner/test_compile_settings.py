import pytest
import torch

from mcod_plugin.engine.runner.compile_settings import (compile_settings,
                                                        uses_cuda_graphs)
from mcod_plugin.errors import ConfigError


def test_settings():
    assert compile_settings(None) is None
    assert compile_settings(False) is None
    assert compile_settings(dict(backend='aot_eager')) == dict(
        backend='aot_eager')


@pytest.mark.parametrize('setting, match', [
    ('yes', "compile must be True, False or a dict .*; got 'yes'"),
    (dict(bakend='eager'), r'compile\.bakend is no .* did you mean backend'),
    (dict(backend='inductr'), "backend 'inductr' .* did you mean inductor"),
    (dict(backend=3), 'compile.backend 3 is no backend'),
    (dict(mode='fast'), 'compile: .*fast'),
    (dict(options=dict(fast=1)), 'compile: .*fast$'),
])
def test_bad_settings(setting, match):
    with pytest.raises(ConfigError, match=match):
        compile_settings(setting)


@pytest.mark.parametrize('setting, expected', [
    (None, False),
    (True, False),
    (dict(mode='default'), False),
    (dict(mode='max-autotune-no-cudagraphs'), False),
    (dict(mode='reduce-overhead'), True),
    (dict(mode='max-autotune'), True),
    (dict(options={'triton.cudagraphs': True}), True),
    (dict(options={'triton.cudagraphs': False}), False),
])
def test_uses_cuda_graphs(setting, expected):
    assert uses_cuda_graphs(setting) is expected


@pytest.mark.parametrize('settings, told', [
    (dict(mode='reduce-overhead'), True),
    (dict(options={'triton.cudagraphs': True}), True),
    (dict(mode='default'), False),
])
def test_graphs_of_an_older_version(monkeypatch, settings, told):
    """PyTorch 2.1 cannot be told that a step begins."""
    monkeypatch.delattr(torch.compiler, 'cudagraph_mark_step_begin')
    if told:
        with pytest.raises(ConfigError, match='need PyTorch 2.2 or newer'):
            compile_settings(settings)
    else:
        assert compile_settings(settings) == settings
