import pytest
from mmengine.config import ConfigDict
from mmpretrain.models import LinearClsHead

from mcod_plugin.config.plain import plain
from mcod_plugin.errors import ConfigError
from mcod_plugin.models.backbones import CifarResNet


def test_plain():
    given = ConfigDict(
        a=dict(type=LinearClsHead), b=[CifarResNet, (1, 2.5)], c=None)
    found = plain('model', given)
    assert found == dict(
        a=dict(type='LinearClsHead'),
        b=['mcod_plugin.CifarResNet', (1, 2.5)],
        c=None)
    assert type(found['a']) is dict
    with pytest.raises(ConfigError, match=r'model\.a\.1 .* got a function'):
        plain('model', dict(a=[1, lambda: 0]))
