import math

import pytest
import torch
import torch.nn as nn
from mmengine.optim import OptimWrapper

from mcod_plugin.errors import ConfigError
from mcod_plugin.models.losses import (BalancedKDLoss, DiscontinuousKDLoss,
                                       MutualKDLoss)
from mcod_plugin.models.losses.balanced_kd_loss import balance_factors
from mcod_plugin.registry import MODELS
from mcod_plugin.structures import BatchDataSample

NAMES = ['a', 'b', 'c']


def make(momentum=.9, limit=100., loss=None, names=NAMES):
    module = BalancedKDLoss(loss, momentum, limit)
    module.setup(names, 10)
    return module.double()


def make_step(seed=0, num=3, shape=(6, 10)):
    """Logits, their teacher's and the gradients of the cross entropies."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(num, *shape, generator=generator).double()
    labels = torch.eye(shape[1])[torch.randint(shape[1], shape[:1],
                                               generator=generator)]
    own = (logits.softmax(-1) - labels) / shape[0]
    return logits.requires_grad_(), logits.detach().mean(0), own


def closed_form(logits, teacher, temperature=3.):
    """The gradient T (q - p) / N of the distillation loss."""
    q, p = ((value / temperature).softmax(-1)
            for value in (logits.detach(), teacher))
    return temperature * (q - p) / logits.shape[-2]


def norms(grads):
    return torch.stack([grad.norm() for grad in grads])


@pytest.mark.parametrize('weight', [1., .3])
def test_pulls_as_hard_as_the_labels(weight):
    """In each step, if nothing is averaged."""
    module = make(momentum=0)
    for seed in range(3):
        logits, teacher, own = make_step(seed)
        losses = module(logits, teacher, own_grad=own, names=NAMES)
        plain = DiscontinuousKDLoss()(logits, teacher)
        kd = closed_form(logits, teacher)
        factors = norms(own) / norms(kd)
        torch.testing.assert_close(losses, factors * plain)
        gradient, = torch.autograd.grad(weight * losses.sum(), logits)
        torch.testing.assert_close(norms(gradient), weight * norms(own))
        torch.testing.assert_close(gradient, weight * factors[:, None, None] *
                                   kd)


def test_average_over_steps():
    """Of the squares of both, from the first step on; by a loop."""
    module = make(momentum=.8)
    sums = torch.zeros(2, 3).double()
    for seed in range(6):
        logits, teacher, own = make_step(seed)
        sums *= .8
        sums[0] += norms(own)**2
        sums[1] += norms(closed_form(logits, teacher))**2
        losses = module(logits, teacher, own_grad=own, names=NAMES)
        factors = (sums[0] / sums[1]).sqrt()
        torch.testing.assert_close(
            losses, factors * DiscontinuousKDLoss()(logits, teacher))
        # no single step pulls harder than that
        gradient, = torch.autograd.grad(losses.sum(), logits)
        average = (sums[0] * .2 / (1 - .8**(seed + 1))).sqrt()
        assert (norms(gradient) <= average / math.sqrt(.2) + 1e-12).all()


@pytest.mark.parametrize('scale', [1e-3, 1e3])
def test_scale_of_the_loss_does_not_matter(scale):

    class Scaled(DiscontinuousKDLoss):

        def forward(self, *args):
            return scale * super().forward(*args)

    ours, plain = make(loss=Scaled(), limit=1e9), make(limit=1e9)
    for seed in range(3):
        logits, teacher, own = make_step(seed)
        torch.testing.assert_close(
            ours(logits, teacher, own_grad=own, names=NAMES),
            plain(logits, teacher, own_grad=own, names=NAMES))


def test_factors_where_a_gradient_is_zero():
    own = torch.tensor([4., 0., 4., 0., 4.])
    kd = torch.tensor([1., 1., 0., 0., 1e-30])
    assert balance_factors(own, kd, 50.).tolist() == [2., 0., 0., 0., 50.]


def test_zero_gradients():
    """A branch that agrees with its teacher, one that knows the labels, and
    both; each then goes on as any other."""
    module = make(momentum=.5)
    logits, teacher, own = make_step()
    with torch.no_grad():
        logits[0] = logits[2] = teacher
    own[1] = own[2] = 0
    # Not a rounding error of the divergence either.
    kd = closed_form(logits, teacher)
    assert kd[0].norm() == kd[2].norm() == 0
    losses = module(logits, teacher, own_grad=own, names=NAMES)
    gradient, = torch.autograd.grad(losses.sum(), logits)
    assert losses.isfinite().all() and gradient.isfinite().all()
    assert norms(gradient).max() < 1e-12
    logits, teacher, own = make_step(1)
    losses = module(logits, teacher, own_grad=own, names=NAMES)
    gradient, = torch.autograd.grad(losses.sum(), logits)
    assert gradient.isfinite().all() and (norms(gradient) > 0).all()
    torch.testing.assert_close(norms(gradient)[2], norms(own)[2])


def test_limit():
    """Rounding errors do not become a pull."""
    logits, teacher, own = make_step(num=1)
    with torch.no_grad():
        logits.copy_(teacher + 1e-9 * own)
    module = make(limit=7., names=['a'])
    losses = module(logits, teacher, own_grad=own, names=['a'])
    gradient, = torch.autograd.grad(losses.sum(), logits)
    torch.testing.assert_close(
        gradient, 7 * closed_form(logits, teacher), rtol=1e-5, atol=1e-15)


@pytest.mark.parametrize('fault', [math.nan, math.inf])
def test_a_step_that_is_not_finite_does_not_count(fault):
    module = make()
    for seed in range(2):
        logits, teacher, own = make_step(seed)
        module(logits, teacher, own_grad=own, names=NAMES)
    before = module.squares.clone()
    own[1, 0, 0] = fault
    losses = module(logits, teacher, own_grad=own, names=NAMES)
    assert losses.isfinite().all()
    assert torch.equal(module.squares[:, 1], before[:, 1])
    assert (module.squares[:, ::2] != before[:, ::2]).all()


def test_branches_that_are_left_out_keep_their_average():
    module = make(momentum=.5)
    logits, teacher, own = make_step()
    module(logits, teacher, own_grad=own, names=NAMES)
    before = module.squares.clone()
    logits, teacher, own = make_step(1)
    losses = module(
        logits[:2], teacher, own_grad=own[:2].flip(0), names=['c', 'a'])
    assert torch.equal(module.squares[:, 1], before[:, 1])
    kd = norms(closed_form(logits, teacher))**2
    for column, row in ((2, 0), (0, 1)):
        torch.testing.assert_close(
            module.squares[:, column],
            (before[:, column] +
             torch.stack([norms(own)[1 - row]**2, kd[row]])) / 2)
    assert losses.shape == (2, )


def test_without_gradients_it_is_used_as_it_is():
    module = make()
    logits, teacher, own = make_step()
    module(logits, teacher, own_grad=own, names=NAMES)
    before = module.squares.clone()
    logits, teacher, own = make_step(1)
    expected = balance_factors(*before, 100.) * DiscontinuousKDLoss()(
        logits, teacher)
    with torch.no_grad():
        found = module(logits, teacher, own_grad=None, names=NAMES)
    torch.testing.assert_close(found, expected.detach())
    module.eval()
    found = module(logits, teacher, own_grad=own, names=NAMES)
    torch.testing.assert_close(found, expected)
    assert torch.equal(module.squares, before)


class HintLoss(nn.Module):
    needs_feats = True


def test_losses_inside():
    peers = BalancedKDLoss(dict(type='mcod_plugin.MutualKDLoss'))
    assert isinstance(peers.loss, MutualKDLoss)
    assert peers.per_peer and not peers.needs_labels
    surer = BalancedKDLoss(
        dict(type='mcod_plugin.DiscontinuousKDLoss', where='surer'))
    assert surer.needs_labels and not surer.per_peer
    assert isinstance(BalancedKDLoss().loss, DiscontinuousKDLoss)


@pytest.mark.parametrize('settings, message', [
    (dict(momentum=1), 'momentum must be less than 1; got 1'),
    (dict(momentum=-.1), 'momentum must be a finite number of at least 0; '
     'got -0.1'),
    (dict(limit=0), 'limit must be a finite number greater than 0; got 0'),
    (dict(limit=math.inf), 'limit must be a finite number .*; got inf'),
    (dict(loss='mcod_plugin.MutualKDLoss'),
     r"loss must be the config of a loss \(a dict\); got 'mcod.*'"),
    (dict(loss=HintLoss()), 'loss of BalancedKDLoss must compare logits, .*; '
     'got HintLoss, which needs features'),
    (dict(loss=dict(type='mcod_plugin.BalancedKDLoss')),
     'loss of BalancedKDLoss must not be scaled .*; got BalancedKDLoss'),
])
def test_refuses(settings, message):
    with pytest.raises(ConfigError, match=rf'^distill\.{message}$'):
        BalancedKDLoss(**settings)


# In a cohort


def make_cohort(loss=None, **kwargs):
    torch.manual_seed(0)
    smoothed = dict(
        type='LabelSmoothLoss', label_smooth_val=.2, mode='original')
    head = dict(type='LinearClsHead', num_classes=5)
    plain = dict(
        backbone=dict(type='mcod_plugin.CifarAlexNet', width=4), head=head)
    branches = dict(
        a=plain,
        b=dict(plain, head=dict(head, loss=smoothed), loss_weight=3.),
        fixed=dict(plain, frozen=True))
    cohort = MODELS.build(
        dict(
            type='mcod_plugin.MultiBackboneClassifier',
            input_size=32,
            branches=branches,
            distill=dict(
                type='mcod_plugin.BalancedKDLoss', loss=loss, **kwargs)))
    cohort.init_weights()
    return cohort


def make_batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(4, 3, 32, 32, generator=generator),
            BatchDataSample(gt_label=torch.tensor([0, 3, 1, 4])))


@pytest.mark.parametrize('loss', [
    None,
    dict(type='mcod_plugin.DiscontinuousKDLoss', where='surer'),
])
def test_weight_is_the_ratio_in_a_cohort(loss):
    """For any loss of a head, and for branches that weigh differently."""
    cohort = make_cohort(loss, momentum=0., limit=1e9).double()
    assert 'distill.squares' in cohort.state_dict()
    logits = {}
    for name, branch in cohort.branches.items():
        branch.register_forward_hook(
            lambda _, __, output, name=name: logits.update({name: output}))
    inputs, samples = make_batch()
    cohort.kd_weight = .4
    losses = cohort(inputs.double(), samples, mode='loss')
    for name in 'ab':
        own, kd = (
            torch.autograd.grad(
                losses[f'{name}.{key}'], logits[name], retain_graph=True)[0]
            for key in ('loss_ce', 'loss_kd'))
        assert own.norm() > 0
        torch.testing.assert_close(kd.norm(), .4 * own.norm())
    # The frozen branch has no part in it.
    assert not cohort.distill.squares[:, 2].any()


def test_off_phase_keeps_the_average():
    cohort = make_cohort()
    wrapper = OptimWrapper(torch.optim.SGD(cohort.parameters(), lr=.01))
    inputs, samples = make_batch()
    seen = []
    for weight in (1., 0., 1.):
        cohort.kd_weight = weight
        cohort.train_step(
            dict(inputs=list(inputs), data_samples=list(samples)), wrapper)
        seen.append(cohort.distill.squares.clone())
    assert seen[0][:, :2].all()
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[1], seen[2])


def test_without_a_gradient_in_a_cohort():
    cohort = make_cohort()
    cohort.kd_weight = 1.
    with torch.no_grad():
        losses = cohort(*make_batch(), mode='loss')
    assert losses['a.loss_kd'] == 0 and not cohort.distill.squares.any()


def test_other_half_precision():
    cohort = make_cohort()
    cohort.kd_weight = 1.
    with torch.autocast('cpu', torch.bfloat16):
        losses = cohort(*make_batch(), mode='loss')
    assert losses['a.loss_kd'].dtype == torch.float32
    assert losses['a.loss_kd'].isfinite() and losses['a.loss_kd'] > 0


def test_branch_that_diverges():
    """It is left out, and what is known of it is not spoilt; two peers that
    remain follow each other alone."""

    def build():
        torch.manual_seed(0)
        branch = dict(
            backbone=dict(type='mcod_plugin.CifarAlexNet', width=4),
            head=dict(type='LinearClsHead', num_classes=5))
        cohort = MODELS.build(
            dict(
                type='mcod_plugin.MultiBackboneClassifier',
                input_size=32,
                branches=dict(a=branch, b=branch, c=branch),
                teacher=dict(type='mcod_plugin.PeerTeacher'),
                distill=dict(
                    type='mcod_plugin.BalancedKDLoss',
                    loss=dict(type='mcod_plugin.MutualKDLoss'))))
        cohort.init_weights()
        cohort.leave_out_diverged()
        cohort.kd_weight = 1.
        return cohort.double()

    inputs, samples = make_batch()
    cohort = build()
    cohort(inputs.double(), samples, mode='loss')
    before = cohort.distill.squares.clone()
    with torch.no_grad():
        cohort.branches['c'].head.fc.bias[0] = math.nan
    cohort.ratio_due = True
    losses = cohort(inputs.double(), samples, mode='loss')
    assert losses['c.loss_kd'] == losses['c.kd_ratio'] == 0
    assert torch.equal(cohort.distill.squares[:, 2], before[:, 2])
    a, b = (cohort.branches[name](inputs.double()) for name in 'ab')
    grad, = torch.autograd.grad(MutualKDLoss()(a, b[None]), a)
    torch.testing.assert_close(cohort.distill.squares[1, 0],
                               .9 * before[1, 0] + .1 * grad.square().sum())
    assert losses['a.kd_ratio'].isfinite() and losses['a.kd_ratio'] > 0
