import pytest
import torch
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from torch import nn

from mcod_plugin.engine.optim_wrapper import (AutocastOptimWrapper,
                                              has_bfloat16, precision)

# On this machine.
AUTO = 'bfloat16' if has_bfloat16() else 'float32'


@pytest.mark.parametrize('config, expected', [
    (dict(), 'float32'),
    (dict(type='OptimWrapper'), 'float32'),
    (dict(type=OptimWrapper), 'float32'),
    (dict(type='mcod_plugin.AutocastOptimWrapper'), AUTO),
    (dict(type='mcod_plugin.AutocastOptimWrapper', dtype='auto'), AUTO),
    (dict(type=AutocastOptimWrapper, dtype='bfloat16'), 'bfloat16'),
    (dict(type='AmpOptimWrapper'), 'float16'),
    (dict(type='mmengine.AmpOptimWrapper', dtype='bfloat16'), 'bfloat16'),
    (dict(type=AmpOptimWrapper, dtype=torch.bfloat16), 'bfloat16'),
])
def test_of_a_config(config, expected):
    assert precision(config) == expected


@pytest.mark.parametrize('kind, settings, expected', [
    (OptimWrapper, {}, 'float32'),
    (AutocastOptimWrapper, {}, AUTO),
    (AutocastOptimWrapper, dict(dtype='bfloat16'), 'bfloat16'),
    pytest.param(
        AmpOptimWrapper, {},
        'float16',
        marks=pytest.mark.skipif(
            not torch.cuda.is_available(), reason='needs a GPU')),
    pytest.param(
        AmpOptimWrapper,
        dict(dtype='bfloat16'),
        'bfloat16',
        marks=pytest.mark.skipif(
            not torch.cuda.is_available(), reason='needs a GPU')),
])
def test_of_a_wrapper(kind, settings, expected):
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.)
    assert precision(kind(optimizer=optimizer, **settings)) == expected
