import numpy as np
import pytest
import torch
from scipy.special import rel_entr, softmax

from mcod_plugin.errors import ConfigError
from mcod_plugin.models.losses import (MutualKDLoss, discontinuous_kd_loss,
                                       mutual_kd_loss)
from mcod_plugin.registry import MODELS


def make_logits(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(*shape, generator=generator).double()


def oracle(student, peers, temperature):
    """T^2 times the mean over peers and images of KL(peer || student)."""
    q = softmax(student.numpy() / temperature, axis=-1)
    terms = [
        rel_entr(softmax(peer.numpy() / temperature, axis=-1), q).sum(-1)
        for peer in peers
    ]
    return temperature**2 * np.mean(terms)


@pytest.mark.parametrize('num', [1, 2, 3])
@pytest.mark.parametrize('temperature', [1., 2.5])
def test_equals_oracle(num, temperature):
    students, peers = make_logits(2, 4, 5), make_logits(2, num, 4, 5, seed=1)
    losses = mutual_kd_loss(students, peers, temperature)
    assert losses.shape == (2, )
    shared = mutual_kd_loss(students, peers[0], temperature)
    for index, student in enumerate(students):
        expected = oracle(student, peers[index], temperature)
        assert losses[index].item() == pytest.approx(expected, rel=1e-12)
        # one student
        alone = mutual_kd_loss(student, peers[index], temperature)
        assert alone.shape == () and alone == losses[index]
        assert shared[index].item() == pytest.approx(
            oracle(student, peers[0], temperature), rel=1e-12)


def test_one_peer_is_a_teacher():
    students, peers = make_logits(2, 4, 5), make_logits(2, 1, 4, 5, seed=1)
    assert torch.equal(
        mutual_kd_loss(students, peers, 3.),
        discontinuous_kd_loss(students, peers[:, 0], 3.))


def test_order_of_peers_and_agreement():
    students, peers = make_logits(2, 4, 5), make_logits(2, 3, 4, 5, seed=1)
    torch.testing.assert_close(
        mutual_kd_loss(students, peers.flip(1)),
        mutual_kd_loss(students, peers))
    same = students.unsqueeze(1).expand_as(peers)
    torch.testing.assert_close(
        mutual_kd_loss(students, same),
        torch.zeros(2).double())
    assert (mutual_kd_loss(students, peers) > 0).all()


def test_gradient():
    students = make_logits(2, 4, 5).requires_grad_()
    peers = make_logits(2, 3, 4, 5, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda logits: mutual_kd_loss(logits, peers, 2.), students)
    gradient, = torch.autograd.grad(
        mutual_kd_loss(students, peers).sum(), students)
    p = softmax(peers.detach().numpy(), axis=-1).mean(1)
    q = softmax(students.detach().numpy(), axis=-1)
    torch.testing.assert_close(gradient, torch.from_numpy((q - p) / 4))
    # the peers are detached
    with pytest.raises(RuntimeError, match='not have been used'):
        torch.autograd.grad(mutual_kd_loss(students, peers).sum(), peers)


def test_half_is_compared_in_float32():
    students, peers = make_logits(2, 4, 5).half(), make_logits(2, 3, 4,
                                                               5).half()
    assert torch.equal(
        mutual_kd_loss(students, peers),
        mutual_kd_loss(students.float(), peers.float()))


@pytest.mark.parametrize('student, peers', [
    ((4, 5), (4, 5)),
    ((2, 4, 5), (4, 5)),
    ((4, 5), (2, 3, 4, 5)),
    ((2, 4, 5), (3, 3, 4, 5)),
    ((2, 4, 5), (1, 3, 4, 5)),
    ((2, 4, 5), (3, 1, 5)),
    ((2, 4, 5), (2, 3, 4, 6)),
    ((5, ), (3, 4, 5)),
    ((1, 2, 4, 5), (3, 4, 5)),
])
def test_refuses_shapes(student, peers):
    with pytest.raises(ValueError, match='peer_logits') as info:
        mutual_kd_loss(torch.zeros(student), torch.zeros(peers))
    assert str(info.value).endswith(f'got {student} and {peers}')


def test_build():
    module = MODELS.build(dict(type='mcod_plugin.MutualKDLoss'))
    assert isinstance(module, MutualKDLoss) and module.temperature == 1
    students, peers = make_logits(2, 4, 5), make_logits(2, 3, 4, 5, seed=1)
    assert torch.equal(
        module(students, peers), mutual_kd_loss(students, peers))
    assert torch.equal(
        MutualKDLoss(2.)(students, peers), mutual_kd_loss(students, peers, 2.))
    assert 'temperature=1.0' in repr(module)


@pytest.mark.parametrize('temperature', [0, -1., '3', None])
def test_refuses_temperatures(temperature):
    with pytest.raises(ConfigError, match=r'^distill\.temperature must be'):
        MutualKDLoss(temperature=temperature)


def test_class_that_all_rule_out():
    students, peers = make_logits(3, 4, 5), make_logits(3, 2, 4, 5, seed=1)
    expected = mutual_kd_loss(students[..., :4], peers[..., :4], 2.)
    students[..., 4] = peers[..., 4] = -float('inf')
    students.requires_grad_()
    losses = mutual_kd_loss(students, peers, 2.)
    torch.testing.assert_close(losses, expected, rtol=1e-12, atol=1e-12)
    losses.sum().backward()
    assert students.grad.isfinite().all()
    assert not students.grad[..., 4].any()


@pytest.mark.parametrize('shared', [True, False])
def test_peers_that_are_left_out(shared):
    students, peers = make_logits(2, 4, 5), make_logits(2, 3, 4, 5, seed=1)
    alive = torch.tensor([[True, False, True], [False, True, False]])
    if shared:
        peers, alive = peers[0], alive[0]
    found = mutual_kd_loss(students, peers, 2., alive)
    for index, student in enumerate(students):
        own, flags = (peers, alive) if shared else (peers[index], alive[index])
        expected = mutual_kd_loss(student, own[flags], 2.)
        assert found[index].item() == pytest.approx(expected.item(), rel=1e-12)
    nobody = mutual_kd_loss(students, peers, 2., torch.zeros_like(alive))
    assert nobody.tolist() == [0, 0]
    torch.testing.assert_close(
        mutual_kd_loss(students, peers, 2., alive, 'sum'),
        found * alive.sum(-1))


def test_sum_of_peers():
    students, peers = make_logits(2, 4, 5), make_logits(2, 3, 4, 5, seed=1)
    loss = MutualKDLoss(2., reduction='sum')
    for student, own, found in zip(students, peers, loss(students, peers)):
        expected = 3 * oracle(student, own, 2.)
        assert found.item() == pytest.approx(expected, rel=1e-12)
    # of one peer it is the same
    assert torch.equal(
        loss(students, peers[:, :1]), mutual_kd_loss(students, peers[:, :1],
                                                     2.))
    assert "reduction='sum'" in repr(loss)
    with pytest.raises(ConfigError, match='^distill.reduction must be one of '
                       "mean, sum; got 'max'$"):
        MutualKDLoss(reduction='max')
