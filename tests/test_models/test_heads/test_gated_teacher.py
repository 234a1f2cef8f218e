import copy
import math

import pytest
import torch

from mcod_plugin.errors import ConfigError
from mcod_plugin.registry import MODELS

NAMES = ['a', 'b', 'c']


def build(seed=None):
    """A teacher as it starts, or one whose gate has learned something."""
    teacher = MODELS.build(dict(type='mcod_plugin.GatedTeacher'))
    teacher.setup(NAMES, 5)
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
        for parameter in teacher.parameters():
            parameter.data.normal_(generator=generator)
    return teacher.double()


def make_logits():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, 5, generator=generator).double()
    return {
        name: value.requires_grad_()
        for name, value in zip(NAMES, logits.unbind())
    }


LABELS = torch.eye(5, dtype=torch.double)[[3, 0, 4, 1]]
MIXED = .6 * LABELS + .4 * LABELS.roll(1, 0)


def softmax(row):
    total = sum(math.exp(value) for value in row)
    return [math.exp(value) / total for value in row]


def ensemble_by_loop(teacher, logits):
    weight, bias = teacher.gate.weight.tolist(), teacher.gate.bias.tolist()
    result = []
    for rows in zip(*(value.tolist() for value in logits.values())):
        seen = [p for row in rows for p in softmax(row)]
        gates = softmax([
            sum(w * p for w, p in zip(line, seen)) + b
            for line, b in zip(weight, bias)
        ])
        result.append(
            [sum(g * z for g, z in zip(gates, column))
             for column in zip(*rows)])
    return torch.tensor(result, dtype=torch.double)


def test_starts_as_the_mean():
    logits = make_logits()
    torch.testing.assert_close(build().ensemble(logits),
                               sum(logits.values()) / 3)


def test_ensemble():
    teacher, logits = build(1), make_logits()
    expected = ensemble_by_loop(teacher, logits)
    assert not torch.allclose(expected, sum(logits.values()) / 3, atol=.1)
    torch.testing.assert_close(teacher.ensemble(logits), expected)
    gates = teacher.gates(logits)
    assert gates.shape == (4, 3) and (gates > 0).all()
    torch.testing.assert_close(gates.sum(1), torch.ones(4).double())
    # an image of its own each
    assert not torch.allclose(gates[0], gates[1], atol=1e-3)


def test_targets():
    teacher, logits = build(1), make_logits()
    targets = teacher(logits)
    assert list(targets) == NAMES
    for target in targets.values():
        assert target is targets['a'] and not target.requires_grad
        assert torch.equal(target, teacher.ensemble(logits))


@pytest.mark.parametrize('labels', [LABELS, MIXED])
def test_loss(labels):
    teacher, logits = build(1), make_logits()
    expected = 0.
    for row, shares in zip(
            ensemble_by_loop(teacher, logits).tolist(), labels.tolist()):
        expected -= sum(
            y * math.log(p) for y, p in zip(shares, softmax(row))) / 4
    losses = teacher.loss(logits, labels)
    assert list(losses) == ['loss_ce']
    assert losses['loss_ce'].item() == pytest.approx(expected, rel=1e-12)


def test_gradients():
    """They reach the gate and, as if the gates were constant, the
    branches."""
    teacher, logits = build(1), make_logits()
    teacher.loss(logits, LABELS)['loss_ce'].backward()
    for parameter in teacher.parameters():
        assert parameter.grad.any()
    gates = teacher.gates(logits).detach()
    slope = (teacher.ensemble(logits).softmax(1) - LABELS).detach() / 4
    for index, value in enumerate(logits.values()):
        torch.testing.assert_close(value.grad, gates[:, [index]] * slope)


class Loss(torch.nn.Module):

    def __init__(self, teacher):
        super().__init__()
        self.teacher = teacher

    def forward(self, *args):
        return self.teacher.loss(*args)['loss_ce']


def test_gradient_of_the_gate():
    module, logits = Loss(build(1)), make_logits()
    names, values = zip(*module.named_parameters())
    assert torch.autograd.gradcheck(
        lambda *values: torch.func.functional_call(
            module, dict(zip(names, values)), (logits, MIXED)), values)


def test_gate_learns_whom_to_trust():
    teacher, labels = build(), torch.eye(5, dtype=torch.double)[[0, 1, 2, 3]]
    logits = dict(a=3 * labels, b=-3 * labels, c=0 * labels)
    optimizer = torch.optim.SGD(teacher.parameters(), lr=.5)
    for _ in range(50):
        optimizer.zero_grad()
        teacher.loss(logits, labels)['loss_ce'].backward()
        optimizer.step()
    gates = teacher.gates(logits)
    assert (gates[:, 0] > .8).all() and (gates[:, 1] < .1).all()


def test_takes_no_random_numbers():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    teacher = build()
    assert torch.equal(torch.get_rng_state(), before)
    assert {key: tuple(value.shape)
            for key, value in teacher.state_dict().items()} == {
                'gate.weight': (3, 15),
                'gate.bias': (3, )
            }


def test_half_precision():
    teacher, logits = build(1).float(), make_logits()
    logits = {name: value.detach().float() for name, value in logits.items()}
    exact = teacher.ensemble(logits)
    with torch.autocast('cpu', torch.bfloat16):
        fused = teacher.ensemble(logits)
    assert fused.dtype == torch.float
    torch.testing.assert_close(fused, exact, rtol=.05, atol=.05)


def test_shares_add_up_in_half_precision():
    teacher, logits = build(1).float(), make_logits()
    logits = {name: value.detach().float() for name, value in logits.items()}
    with torch.autocast('cpu', torch.bfloat16):
        gates = teacher.gates(logits)
    assert gates.dtype == torch.float
    torch.testing.assert_close(gates.sum(1), torch.ones(4))


@pytest.mark.parametrize('labels', [LABELS, MIXED])
def test_class_that_all_rule_out(labels):
    """As if its logits were very low, whose probability is 0 as well."""
    teacher = build(seed=1)
    losses, gradients, gates = [], [], []
    for low in (-1e5, -math.inf):
        logits = {}
        for name, value in make_logits().items():
            value = value.detach()
            value[:, 2] = low
            logits[name] = value.requires_grad_()
        teacher.zero_grad()
        loss = teacher.loss(logits, labels)['loss_ce']
        loss.backward()
        losses.append(loss.item())
        gradients.append(torch.stack([z.grad for z in logits.values()]))
        gates.append(teacher.gate.weight.grad.clone())
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(*gates, rtol=1e-6, atol=1e-9)
    fused = teacher.ensemble(logits)
    assert fused[:, 2].isneginf().all()
    assert fused[:, [0, 1, 3, 4]].isfinite().all()


def test_branch_that_is_left_out():
    """A gate without its rows and columns."""
    teacher, smaller = build(seed=1), build()
    smaller.setup(['a', 'c'], 5)
    smaller.double()
    kept = [*range(5), *range(10, 15)]
    smaller.gate.weight.data.copy_(teacher.gate.weight[[0, 2]][:, kept])
    smaller.gate.bias.data.copy_(teacher.gate.bias[[0, 2]])
    logits, others = make_logits(), make_logits()
    del others['b']
    alive = {name: torch.tensor(name != 'b') for name in NAMES}
    found = teacher.loss(logits, MIXED, alive=alive)['loss_ce']
    expected = smaller.loss(others, MIXED)['loss_ce']
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    found.backward()
    expected.backward()
    for name, value in others.items():
        torch.testing.assert_close(
            logits[name].grad, value.grad, rtol=1e-10, atol=1e-12)
    assert not logits['b'].grad.any()
    torch.testing.assert_close(
        teacher(logits, alive=alive)['a'], smaller(others)['a'])


# With batch norm and ReLU


def build_normed(seed=1):
    torch.manual_seed(0)
    teacher = MODELS.build(dict(type='mcod_plugin.GatedTeacher', norm=True))
    teacher.setup(NAMES, 5)
    generator = torch.Generator().manual_seed(seed)
    for parameter in teacher.gate_norm.parameters():
        parameter.data.normal_(1, .3, generator=generator)
    return teacher.double()


def layers_of(teacher):
    """Those of the authors, as a network."""
    return torch.nn.Sequential(teacher.gate, teacher.gate_norm,
                               torch.nn.ReLU(), torch.nn.Softmax(1))


def seen(logits):
    return torch.cat([z.detach().softmax(1) for z in logits.values()], 1)


def test_normed_gate():
    teacher, logits = build_normed(), make_logits()
    layers = layers_of(copy.deepcopy(teacher)).train()
    for _ in range(3):
        # A step in an on-phase: the statistics take it in once.
        targets = teacher(logits)['a']
        loss = teacher.loss(logits, MIXED)['loss_ce']
        expected = layers(seen(logits))
        torch.testing.assert_close(teacher.gates(logits), expected)
        fused = sum(
            g[:, None] * z for g, z in zip(expected.t(), logits.values()))
        torch.testing.assert_close(targets, fused.detach())
        torch.testing.assert_close(
            loss, -(MIXED * fused.log_softmax(1)).sum(1).mean())
    loss.backward()
    assert teacher.gate.weight.grad.any()
    # also at the start, unlike a gate of zeros
    assert build_normed().gate.weight.any()
    teacher.eval(), layers.eval()
    assert teacher.gate_norm.running_mean.any()
    torch.testing.assert_close(teacher.gates(logits), layers(seen(logits)))
    for name in ('running_mean', 'running_var'):
        torch.testing.assert_close(
            getattr(teacher.gate_norm, name), getattr(layers[1], name))


def test_normed_gate_of_one_image():
    teacher, logits = build_normed(), make_logits()
    one = {name: value[:1] for name, value in logits.items()}
    teacher.train()
    found = teacher.loss(one, LABELS[:1])['loss_ce']
    assert found == teacher.eval().loss(one, LABELS[:1])['loss_ce']


def test_normed_gate_takes_no_random_numbers():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    teacher = build_normed()
    assert torch.equal(torch.get_rng_state(), before)
    assert teacher.gate.weight.abs().max() <= 15**-.5
    assert 'norm=True' in repr(teacher)
    with pytest.raises(ConfigError, match='^model.teacher.norm must be one'):
        MODELS.build(dict(type='mcod_plugin.GatedTeacher', norm='BN'))
