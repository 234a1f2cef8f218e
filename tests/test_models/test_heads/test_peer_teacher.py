import pytest
import torch

from mcod_plugin.errors import ConfigError
from mcod_plugin.registry import MODELS


def build():
    return MODELS.build(dict(type='mcod_plugin.PeerTeacher'))


def make_logits(num):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(num, 4, 5, generator=generator).double()
    return {
        name: value.requires_grad_()
        for name, value in zip('abcd', logits.unbind())
    }


@pytest.mark.parametrize('num', [2, 3, 4])
def test_targets_are_the_peers(num):
    logits = make_logits(num)
    targets = build()(logits)
    assert list(targets) == list(logits)
    for name, target in targets.items():
        peers = [other for other in logits if other != name]
        assert target.shape == (num - 1, 4, 5) and not target.requires_grad
        for value, peer in zip(target, peers):
            assert torch.equal(value, logits[peer])


def test_ensemble_is_the_mean():
    logits = make_logits(3)
    torch.testing.assert_close(build().ensemble(logits),
                               sum(logits.values()) / 3)


def test_needs_peers():
    with pytest.raises(ConfigError, match='PeerTeacher.*two branches; got a'):
        build().setup(['a'], 5)
    build().setup(['a', 'b'], 5)
    assert not build().state_dict()
