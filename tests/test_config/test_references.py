"""Each method trains what its docstring says: the loss of a whole step, and
its gradients, are those of the formula, which is written anew here."""
import copy
import math
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mcod_plugin.config.methods import apply_method, find_method
from mcod_plugin.config.read import merge_options
from mcod_plugin.registry import HOOKS, MODELS
from mcod_plugin.structures import BatchDataSample

METHODS = sorted(
    path.stem for path in Path(find_method('mcod')).parent.glob('*.py'))
HEAD = dict(type='LinearClsHead', num_classes=5)
BRANCHES = dict(
    a=dict(
        backbone=dict(type='mcod_plugin.CifarResNet', depth=8, width=4),
        head=HEAD),
    b=dict(backbone=dict(type='mcod_plugin.CifarAlexNet', width=4), head=HEAD),
    c=dict(
        backbone=dict(type='mcod_plugin.CifarResNet', depth=8, width=6),
        head=HEAD))
# Mixed labels.
LABELS = torch.eye(5, dtype=torch.double)[[3, 0, 4, 1, 3, 2]]
LABELS = .7 * LABELS + .3 * LABELS.roll(1, 0)

# What formulas are made of. Logits are lists of tensors (N, C), one a branch.


def softmax(logits):
    powers = (logits - logits.max()).exp()
    return powers / powers.sum(1, keepdim=True)


def ce(logits, labels=LABELS):
    return -(labels * softmax(logits).log()).sum(1).mean()


def kl(target, logits, t):
    p, q = softmax(target.detach() / t), softmax(logits / t)
    return t**2 * (p * (p / q).log()).sum(1).mean()


def mean(logits):
    return sum(logits) / len(logits)


def least(logits):
    true = [(LABELS * z).sum(1, keepdim=True) for z in logits]
    return torch.stack([z - y for z, y in zip(logits, true)]).min(0)[0]


def weighed(logits):
    each = [-(LABELS * softmax(z).log()).sum(1, keepdim=True) for z in logits]
    powers = [value.exp() for value in each]
    return sum((1 - power / sum(powers)) / (len(logits) - 1) * z
               for power, z in zip(powers, logits))


def standardized(z):
    spread = (z - z.mean(1, keepdim=True)).square().mean(1, keepdim=True)
    return (z - z.mean(1, keepdim=True)) / (spread + 1e-7).sqrt()


def decoupled(target, logits, t, alpha, beta):
    p, q = softmax(target.detach() / t), softmax(logits / t)
    total = 0.
    for c in range(5):
        rest = [k for k in range(5) if k != c]
        two = [torch.stack([x[:, c], x[:, rest].sum(1)], 1) for x in (p, q)]
        others = [x[:, rest] / x[:, rest].sum(1, keepdim=True) for x in (p, q)]
        terms = [(x * (x / y).log()).sum(1) for x, y in (two, others)]
        total += LABELS[:, c] * (alpha * terms[0] + beta * terms[1])
    return t**2 * total.mean()


def correlation(x, y):
    x, y = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
    product = x.square().sum(1).sqrt() * y.square().sum(1).sqrt()
    return ((x * y).sum(1) / (product + 1e-8)).mean()


def relations(target, logits, t, beta, gamma):
    p, q = softmax(target.detach() / t), softmax(logits / t)
    return t**2 * (
        beta * (1 - correlation(q, p)) + gamma *
        (1 - correlation(q.t(), p.t())))


def follow(fuse, t, weight=1., own=1., distance=kl):
    """The branches follow one ensemble."""

    def total(step):
        target = fuse(step.logits)
        return sum(own * ce(z) +
                   own * step.w * weight * distance(target, z, t)
                   for z in step.logits)

    return total


def peers(step, share):
    return sum(
        ce(z) + step.w * share *
        sum(kl(peer, z, 1.) for peer in step.logits if peer is not z)
        for z in step.logits)


# The totals of a step.


def averaged(step):
    target = mean([net(step.images[name]) for name, net in step.averages])
    return sum(ce(z) + step.w * kl(target, z, 3.) for z in step.logits)


def balanced(step):
    total, target = 0., mean(step.logits)
    for z in step.logits:
        losses = ce(z), kl(target, z, 3.)
        grads = [
            torch.autograd.grad(x, z, retain_graph=True)[0] for x in losses
        ]
        total += losses[0] + step.w * losses[1] * (
            grads[0].norm() / grads[1].norm())
    return total


def features(step):
    total = sum(map(ce, step.logits))
    for name, own in step.feats.items():
        for peer, other in step.feats.items():
            if peer == name:
                continue
            size = [min(x, y) for x, y in zip(own.shape[2:], other.shape[2:])]
            x, y = (
                torch.nn.functional.adaptive_avg_pool2d(value,
                                                        size).movedim(1, 3)
                for value in (own, other.detach()))
            layer = step.distill.projections[name][peer]
            y = y - y.mean(3, keepdim=True)
            y = y / (y.square().mean(3, keepdim=True) + 1e-5).sqrt()
            error = x @ layer.weight.t() + layer.bias - y
            total = total + step.w * error.square().mean() / 2
    return total


def kd(step):
    target, *students = step.logits
    return sum(ce(z) + step.w * kl(target, z, 3.) for z in students)


def leave_one_out(step):
    return sum(
        ce(z) +
        step.w * kl(mean([x for x in step.logits if x is not z]), z, 3.)
        for z in step.logits)


def one(step):
    teacher = step.teacher
    seen = torch.cat([softmax(z.detach()) for z in step.logits], 1)
    scores = seen @ teacher.gate.weight.t() + teacher.gate.bias
    scores = (scores - scores.mean(0)) / (scores.var(0, correction=0) +
                                          1e-5).sqrt()
    norm = teacher.gate_norm
    gates = softmax((norm.weight * scores + norm.bias).clamp(min=0))
    fused = sum(g[:, None] * z for g, z in zip(gates.t(), step.logits))
    return ce(fused) + sum(
        ce(z) + step.w * kl(fused, z, 3.) for z in step.logits)


FORMULAS = dict(
    always_on=follow(mean, 3.),
    averaged=averaged,
    balanced=balanced,
    confidence=follow(weighed, 3.),
    dist=follow(mean, 1., distance=lambda x, y, t: relations(x, y, t, 2., 2.)),
    dkd=follow(mean, 4., distance=lambda x, y, t: decoupled(x, y, t, 1., 8.)),
    dml=lambda step: peers(step, 1 / 2),
    features=features,
    kd=kd,
    # As in public code: (1 - a) CE + a KD with a = 0.5.
    kdcl_mean=follow(mean, 4., own=.5),
    kdcl_min_logit=follow(least, 4., own=.5),
    leave_one_out=leave_one_out,
    mcod=follow(mean, 3.),
    mcod_constant=follow(mean, 3.),
    mean_t4_w05=follow(mean, 4.),
    min_logit_t4_w05=follow(least, 4.),
    on_off=follow(mean, 3.),
    one=one,
    prob_mean=follow(lambda logits: mean(list(map(softmax, logits))).log(),
                     3.),
    ramp=follow(mean, 3.),
    slow_start=follow(mean, 3.),
    solo=lambda step: sum(map(ce, step.logits)),
    standardized=follow(
        mean,
        2.,
        distance=lambda x, y, t: kl(standardized(x), standardized(y), t)))

# The weight in epoch t of 300; in the others it is 1.
WEIGHTS = dict(
    balanced=lambda t: .3,
    dist=lambda t: min(max(t / 300 - .3, 0) / .5, 1.),
    # the first of 240 epochs is 1 there
    dkd=lambda t: min((t * 240 / 300 + 1) / 20, 1.),
    mean_t4_w05=lambda t: .5,
    min_logit_t4_w05=lambda t: .5,
    on_off=lambda t: 1. - t % 2,
    one=lambda t: math.exp(-5 * (1 - min(t / 80, 1.))**2),
    ramp=lambda t: .5 + t / 299,
    slow_start=lambda t: min(5 * t / 300, 1.),
    solo=lambda t: 0.,
    **dict.fromkeys(('mcod', 'prob_mean', 'confidence', 'leave_one_out'),
                    lambda t: min(2 * t / 300, 1.)))
# Those with gaps that vanish, and after how many epochs they do at the latest.
GAPS = dict(
    mcod=75, prob_mean=75, confidence=75, leave_one_out=75, mcod_constant=150)

# Weights of the public code in runs as long as its own.
DISTINCT = dict(
    one=(300, {
        t: math.exp(-5 * (1 - t / 80)**2)
        for t in range(81)
    }),
    dkd=(240, {
        t: min((t + 1) / 20, 1.)
        for t in range(240)
    }))


class Step:
    """A training step of a cohort in float64, and the leaves of a formula."""

    def __init__(self, method, epoch, *options):
        torch.manual_seed(0)
        cfg = Config(
            dict(
                model=dict(
                    type='mcod_plugin.MultiBackboneClassifier',
                    input_size=32,
                    branches=copy.deepcopy(BRANCHES))))
        apply_method(cfg, find_method(method))
        if method == 'kd':
            options = ('model.teacher.members=a',
                       'model.branches.a.frozen=True', *options)
        merge_options(cfg, options)
        schedule = HOOKS.build(cfg.custom_hooks[0]).schedule.resolve(300)
        self.w = schedule.weight(epoch)
        self.cohort = MODELS.build(cfg.model)
        self.cohort.init_weights()
        self._move()
        self.cohort.double().train().kd_weight = self.w
        self.teacher, self.distill = self.cohort.teacher, self.cohort.distill
        self.cohort.check_distillation()

    def _move(self):
        """From where the branches begin: logits must differ, and averages
        from their branches."""
        generator = torch.Generator().manual_seed(1)
        for name, value in self.cohort.named_parameters():
            scale = 1. if '.head.' in name or 'gate' in name else .05
            value.data += scale * torch.randn(value.shape, generator=generator)

    def train(self):
        """The loss, and gradients at logits, features and own parameters."""
        found = dict(logits={}, feats={})

        def keep(kind, name):

            def hook(_, __, output):
                found[kind][name] = output[-1] if isinstance(output,
                                                             tuple) else output

            return hook

        for name, branch in self.cohort.branches.items():
            branch.head.register_forward_hook(keep('logits', name))
            branch.backbone.register_forward_hook(keep('feats', name))
        generator = torch.Generator().manual_seed(2)
        inputs = torch.randn(6, 3, 32, 32, generator=generator).double()
        losses = self.cohort(
            inputs, BatchDataSample(gt_score=LABELS), mode='loss')
        total, _ = self.cohort.parse_losses(losses)
        self.averages = list((getattr(self.teacher, 'ema', None)
                              or {}).items())
        self.images = self.cohort.branch_images(inputs)
        parts = filter(None, (self.teacher, self.distill))
        # The averages are no part of the training.
        own = [
            x for part in parts for x in part.parameters() if x.requires_grad
        ]
        kind = 'logits'
        if self.distill is not None and self.distill.needs_feats:
            kind = 'feats'
        outputs = found[kind].values()
        grads = torch.autograd.grad(
            total, [x for x in outputs if x.requires_grad] + own)
        leaves = [x.detach().requires_grad_(x.requires_grad) for x in outputs]
        self.feats = dict(zip(found[kind], leaves))
        self.logits = leaves if kind == 'logits' else [
            branch.head(branch.neck((leaf, )))
            for leaf, branch in zip(leaves, self.cohort.branches.values())
        ]
        leaves = [x for x in leaves if x.requires_grad]
        return total.detach(), grads, leaves + own


def differences(method, formula, epoch=0, *options):
    """The greatest, of the loss and of a gradient, relative to the
    greatest."""
    step = Step(method, epoch, *options)
    total, grads, leaves = step.train()
    expected = formula(step)
    wanted = torch.autograd.grad(expected, leaves, allow_unused=True)
    assert len(grads) == len(wanted) >= 2
    wanted = [
        torch.zeros_like(leaf) if x is None else x
        for x, leaf in zip(wanted, leaves)
    ]
    assert any(x.any() for x in wanted)
    greatest = max(x.abs().max() for x in wanted)
    apart = max((x - y).abs().max() for x, y in zip(grads, wanted))
    expected = expected.detach()
    return (float(
        (total - expected).abs() / expected.abs()), float(apart / greatest))


def test_each_has_a_formula():
    assert METHODS == sorted(FORMULAS)


@pytest.mark.parametrize('method', METHODS)
def test_formula(method):
    for epoch in (0, 299):
        loss, gradient = differences(method, FORMULAS[method], epoch)
        print(f'{method:18} epoch {epoch:3} loss {loss:.1e} '
              f'gradient {gradient:.1e}')
        assert loss < 1e-12 and gradient < 1e-10


@pytest.mark.parametrize('method', METHODS)
def test_weight(method):
    cfg = Config(dict(model=dict(branches=dict(a={}))))
    apply_method(cfg, find_method(method))
    schedule = HOOKS.build(cfg.custom_hooks[0]).schedule.resolve(300)
    expected = WEIGHTS.get(method, lambda t: 1.)
    for t in (0, 1, 7, 40, 79, 80, 150, 298, 299):
        weight = schedule.weight(t)
        if weight or not 0 < t < GAPS.get(method, 0):
            # A ramp is a whole number of epochs.
            assert weight == pytest.approx(expected(t), abs=1e-2), t
    off = [t for t in range(1, 300) if not schedule.weight(t)]
    if method in GAPS:
        # every other epoch until the gap is less than half of one
        assert off == [*range(1, GAPS[method] + 1, 2)][:len(off)]
        assert abs(off[-1] - GAPS[method]) <= 2
    exact = DISTINCT.get(method)
    if exact is not None:
        total, values = exact
        schedule = HOOKS.build(cfg.custom_hooks[0]).schedule.resolve(total)
        for t, value in values.items():
            assert schedule.weight(t) == pytest.approx(value, abs=1e-6)


def test_differences_of_public_code():
    """What the docstrings tell."""
    # Of three networks, the authors of DML sum.
    loss, gradient = differences('dml', lambda step: peers(step, 1.), 0,
                                 'model.distill.reduction=sum')
    assert loss < 1e-12 and gradient < 1e-10
    loss, _ = differences('dml', lambda step: peers(step, 1.))
    assert loss > 1e-3
    # Half the weight beside whole labels is not KDCL.
    loss, _ = differences('mean_t4_w05', FORMULAS['kdcl_mean'])
    assert loss > 1e-2
    # The sum of the logits, as shaoeric has it, is another target.
    loss, _ = differences('kdcl_mean', follow(sum, 4., own=.5))
    assert loss > 1e-3
