"""A cohort that leaves out a branch, against the same cohort without it."""
import copy
import math
import pickle

import pytest
import torch
import torch.nn as nn
from mmengine.optim import OptimWrapper
from mmpretrain.structures import DataSample
from torch.nn.utils import clip_grad_norm_

from mcod_plugin.errors import ConfigError
from mcod_plugin.models.heads import BaseTeacher
from mcod_plugin.models.losses import BaseKDLoss
from mcod_plugin.registry import MODELS

HEAD = dict(type='LinearClsHead', num_classes=5)
BRANCHES = dict(
    resnet=dict(
        backbone=dict(type='mcod_plugin.CifarResNet', depth=8, width=4),
        head=HEAD),
    narrow=dict(
        backbone=dict(type='mcod_plugin.CifarResNet', depth=8, width=2),
        head=HEAD),
    alexnet=dict(
        backbone=dict(type='mcod_plugin.CifarAlexNet', width=4), head=HEAD))


class OwnTeacher(nn.Module):
    """One of a user's, that knows nothing of branches to leave out."""

    def ensemble(self, logits):
        return torch.stack(list(logits.values())).mean(0)

    def forward(self, logits):
        with torch.no_grad():
            return dict.fromkeys(logits, self.ensemble(logits))


TEACHERS = {
    **{
        fusion: dict(type='mcod_plugin.EnsembleTeacher', fusion=fusion)
        for fusion in ('mean', 'prob_mean', 'min_logit', 'confidence')
    }, 'weights': dict(
        type='mcod_plugin.EnsembleTeacher', weights=dict(resnet=2, alexnet=3)),
    'leave_one_out':
    dict(type='mcod_plugin.EnsembleTeacher', leave_one_out=True),
    'averaged':
    dict(type='mcod_plugin.EnsembleTeacher', ema=.9),
    'peers': dict(type='mcod_plugin.PeerTeacher'),
    'own': OwnTeacher()
}


def make_cohort(*names, teacher='mean', **changes):
    torch.manual_seed(0)
    distill = dict(type='mcod_plugin.DiscontinuousKDLoss')
    if teacher == 'peers':
        distill = dict(type='mcod_plugin.MutualKDLoss')
    kind = TEACHERS[teacher]
    if teacher == 'weights':
        kind = dict(
            kind,
            weights={
                name: weight
                for name, weight in kind['weights'].items()
                if name in (names or BRANCHES)
            })
    cohort = MODELS.build(
        dict(
            type='mcod_plugin.MultiBackboneClassifier',
            input_size=32,
            branches={
                name: dict(BRANCHES[name], **changes.get(name, {}))
                for name in names or BRANCHES
            },
            teacher=kind,
            distill=distill))
    cohort.init_weights()
    cohort.kd_weight = 1.5
    return cohort.double()


def make_batch():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(6, 3, 32, 32, generator=generator).double()
    return inputs, [DataSample().set_gt_label(i % 5) for i in range(6)]


def without(cohort, name, **kwargs):
    """The cohort without a branch, with the same weights."""
    kept = [branch for branch in cohort.branches if branch != name]
    smaller = make_cohort(*kept, **kwargs)
    for key, branch in smaller.branches.items():
        branch.load_state_dict(cohort.branches[key].state_dict())
    if hasattr(smaller.teacher, 'begin'):
        smaller.teacher.begin(smaller.branches)
    return smaller


def step(cohort):
    """Losses, what is logged, and gradients."""
    torch.manual_seed(0)  # of dropout
    cohort.zero_grad()
    losses = cohort(*make_batch(), mode='loss')
    total, logged = cohort.parse_losses(losses)
    total.backward()
    gradients = {
        key: value.grad
        for key, value in cohort.named_parameters() if value.requires_grad
    }
    return losses, logged, gradients


def break_weights(branch):
    next(branch.parameters()).data.fill_(math.nan)


def break_logits(branch):
    branch.head.fc.bias.data[2] = math.inf


def break_loss(branch):
    """The class of some images is ruled out: finite targets, infinite CE."""
    branch.head.fc.bias.data[2] = -math.inf


FAULTS = dict(weights=break_weights, logits=break_logits, loss=break_loss)


@pytest.mark.parametrize('teacher', TEACHERS)
@pytest.mark.parametrize('fault', FAULTS)
def test_others_are_as_if_alone(teacher, fault):
    cohort = make_cohort(teacher=teacher)
    cohort.leave_out_diverged()
    FAULTS[fault](cohort.branches['narrow'])
    if hasattr(cohort.teacher, 'begin'):
        # An average is broken, too.
        cohort.teacher.begin(cohort.branches)
    smaller = without(cohort, 'narrow', teacher=teacher)
    losses, logged, gradients = step(cohort)
    expected, _, others = step(smaller)
    for key, value in expected.items():
        torch.testing.assert_close(losses[key], value, rtol=1e-12, atol=1e-12)
    for key, value in others.items():
        torch.testing.assert_close(
            gradients.pop(key), value, rtol=1e-9, atol=1e-12)
    # Nothing of the broken one reaches a norm over all gradients.
    assert gradients and not any(value.any() for value in gradients.values())
    assert clip_grad_norm_(cohort.parameters(), 1.).isfinite()
    for key, value in losses.items():
        if key.startswith('narrow.'):
            assert value == 0 and logged[key].isnan(), key
    assert logged['loss'].isfinite()
    assert cohort.alive.tolist() == [True, False, True]


@pytest.mark.parametrize('teacher', TEACHERS)
def test_nobody_diverges(teacher):
    """Then leaving out changes nothing, and the state is that of the
    branches."""
    cohort = make_cohort(teacher=teacher)
    keys = list(cohort.state_dict())
    losses, _, gradients = step(cohort)
    cohort.leave_out_diverged()
    found, _, same = step(cohort)
    assert list(found) == list(losses)
    for key, value in found.items():
        torch.testing.assert_close(losses[key], value, rtol=1e-12, atol=1e-12)
    for key, value in gradients.items():
        torch.testing.assert_close(same[key], value, rtol=1e-9, atol=1e-12)
    assert list(cohort.state_dict()) == keys


class Overflow(nn.Module):
    """A loss that is infinite for one branch."""

    def forward(self, logits, targets):
        distances = (logits - targets).pow(2).mean((1, 2))
        return distances * torch.tensor([1., math.inf, 1.])


def test_distillation_that_overflows():
    cohort = make_cohort()
    cohort.distill = Overflow()
    cohort.leave_out_diverged()
    losses, logged, gradients = step(cohort)
    assert losses['narrow.loss_kd'] == 0 and logged['narrow.loss_kd'].isnan()
    assert losses['resnet.loss_kd'] > 0 and logged['loss'].isfinite()
    assert all(value.isfinite().all() for value in gradients.values())
    assert cohort.alive.tolist() == [True, False, True]
    assert step(cohort)[0]['narrow.loss_ce'] == 0


def test_once_out_always_out():
    """Also if its numbers become finite again."""
    cohort = make_cohort()
    cohort.leave_out_diverged()
    healthy = cohort.branches['narrow'].head.fc.bias.clone()
    break_logits(cohort.branches['narrow'])
    step(cohort)
    cohort.branches['narrow'].head.fc.bias.data.copy_(healthy)
    losses, logged, gradients = step(cohort)
    assert losses['narrow.loss_ce'] == losses['narrow.loss_kd'] == 0
    assert logged['narrow.loss_ce'].isnan()
    for key, value in gradients.items():
        assert key.startswith('branches.narrow.') != bool(value.any()), key


@pytest.mark.parametrize('teacher', ['leave_one_out', 'peers', 'mean'])
def test_the_last_one_has_no_teacher(teacher):
    cohort = make_cohort('resnet', 'narrow', teacher=teacher)
    cohort.leave_out(['narrow'])
    losses, _, gradients = step(cohort)
    assert losses['resnet.loss_kd'].item() == pytest.approx(0, abs=1e-12)
    cohort.kd_weight = 0.
    _, _, alone = step(cohort)
    for key, value in gradients.items():
        torch.testing.assert_close(value, alone[key], rtol=1e-9, atol=1e-12)


class FeatureTeacher(BaseTeacher):
    """Who has longer features is believed more."""
    needs_feats = True

    def ensemble(self, logits):
        return torch.stack(list(logits.values())).mean(0)

    def forward(self, logits, feats):
        lengths = [own[-1].flatten(1).norm(dim=1) for own in feats.values()]
        weights = torch.stack(lengths).softmax(0)[..., None]
        fused = (weights * torch.stack(list(logits.values()))).sum(0)
        return dict.fromkeys(logits, fused)


class FeatureLoss(BaseKDLoss):
    """Brings features to one place by layers of its own."""
    needs_feats = True

    def setup(self, names, num_classes, feat_shapes):
        self.layers = nn.ModuleDict({
            name: nn.Linear(shapes[-1][0], 4)
            for name, shapes in feat_shapes.items()
        })

    def forward(self, logits, targets, feats, names):
        points = {
            name: layer(feats[name][-1].flatten(2).mean(2))
            for name, layer in self.layers.items()
        }
        center = sum(points.values()).detach()
        return torch.stack([
            1 - torch.cosine_similarity(points[name], center).mean()
            for name in names
        ])


@pytest.mark.parametrize('part', [
    dict(teacher=FeatureTeacher()),
    dict(distill=FeatureLoss()),
])
def test_features_of_one_that_is_left_out(part):
    cohort = MODELS.build(
        dict(
            type='mcod_plugin.MultiBackboneClassifier',
            input_size=32,
            branches={
                name: dict(BRANCHES['resnet'])
                for name in ('resnet', 'narrow', 'alexnet')
            },
            **part)).double()
    cohort.kd_weight = 1.
    cohort.leave_out_diverged()
    break_weights(cohort.branches.resnet)
    losses, _, gradients = step(cohort)
    assert cohort.alive.tolist() == [False, True, True]
    for name in ('narrow', 'alexnet'):
        assert losses[f'{name}.loss_kd'] > 0
    assert all(value.isfinite().all() for value in gradients.values())


def test_a_copy_is_guarded_as_well():
    cohort = make_cohort()
    cohort.leave_out_diverged()
    for copied in (copy.deepcopy(cohort),
                   pickle.loads(pickle.dumps(cohort))):
        copied.leave_out_diverged()
        break_weights(copied.branches.resnet)
        _, _, gradients = step(copied)
        assert copied.alive.tolist() == [False, True, True]
        assert all(value.isfinite().all() for value in gradients.values())


def test_frozen_teacher():
    """It has no loss of its own; its logits tell."""
    cohort = make_cohort(narrow=dict(frozen=True))
    cohort.leave_out_diverged()
    break_weights(cohort.branches['narrow'])
    losses, _, gradients = step(cohort)
    assert cohort.alive.tolist() == [True, False, True]
    assert all(value.isfinite() for value in losses.values())
    assert all(value.isfinite().all() for value in gradients.values())


def test_images_of_nan_leave_nobody():
    cohort = make_cohort()
    cohort.leave_out_diverged()
    inputs, samples = make_batch()
    inputs[1, 0, 3, 3] = math.nan
    cohort.loss(inputs, samples)
    assert not cohort.alive.any()


class Explosion(torch.autograd.Function):
    """Finite forwards, infinite backwards."""

    @staticmethod
    def forward(ctx, value):
        return value.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * math.inf


@pytest.mark.parametrize('scaled', [False, True])
def test_gradients_that_are_not_finite(scaled):
    """A clip by the norm over all would hand them on; a scaler of gradients
    has to see them."""
    cohort = make_cohort()
    cohort.leave_out_diverged(scaled)
    cohort.branches['narrow'].head.fc.register_forward_hook(
        lambda module, args, result: Explosion.apply(result))
    _, _, gradients = step(cohort)
    found = all(value.isfinite().all() for value in gradients.values())
    assert found != scaled
    # out for another reason, a scaler does not stumble over it
    cohort.leave_out(['narrow'])
    _, _, gradients = step(cohort)
    assert all(value.isfinite().all() for value in gradients.values())


@pytest.mark.parametrize('teacher', ['mean', 'prob_mean', 'peers', 'own'])
def test_prediction(teacher):
    cohort = make_cohort(teacher=teacher).eval()
    break_weights(cohort.branches['narrow'])
    cohort.leave_out(['narrow', 'unknown'])
    smaller = without(cohort, 'narrow', teacher=teacher).eval()
    inputs, _ = make_batch()
    with torch.no_grad():
        torch.testing.assert_close(cohort(inputs), smaller(inputs))
        found, expected = cohort.predict(inputs), smaller.predict(inputs)
    for sample, other in zip(found, expected):
        for key in ('pred_score', 'pred_label', 'pred_score_alexnet'):
            torch.testing.assert_close(sample.get(key), other.get(key))
        assert sample.pred_score_narrow.isnan().all()


def test_gate_goes_on():
    """In the loss of the teacher, too, which has weights of its own."""
    TEACHERS['gated'] = dict(type='mcod_plugin.GatedTeacher')
    cohort = make_cohort(teacher='gated')
    cohort.leave_out_diverged()
    break_weights(cohort.branches['narrow'])
    wrapper = OptimWrapper(
        torch.optim.SGD(cohort.parameters(), lr=.1, momentum=.9),
        clip_grad=dict(max_norm=1.))
    inputs, samples = make_batch()
    cohort.data_preprocessor.forward = lambda data, training=False: data
    for _ in range(3):
        logged = cohort.train_step(
            dict(inputs=inputs, data_samples=samples), wrapper)
        assert logged['teacher.loss_ce'].isfinite()
    for key, value in cohort.state_dict().items():
        assert key.startswith('branches.narrow.') or value.isfinite().all()
    assert cohort.teacher.gate.weight.any()


@pytest.mark.parametrize('key, value, message', [
    ('std', [1., 0., 1.], 'data_preprocessor.std must be finite numbers '
     'greater than 0; got [1.0, 0.0, 1.0]'),
    ('std', [1., math.nan, 1.], 'data_preprocessor.std must be finite'),
    ('std', [1., -1., 1.], 'data_preprocessor.std must be finite'),
    ('mean', [1., math.nan, 1.], 'data_preprocessor.mean must be finite'),
])
@pytest.mark.parametrize('kind', ['BatchDataPreprocessor', None])
def test_division_by_0_is_refused(key, value, message, kind):
    kind = f'mcod_plugin.{kind}' if kind else 'ClsDataPreprocessor'
    settings = dict(mean=[0.] * 3, std=[1.] * 3, type=kind)
    settings[key] = value
    with pytest.raises(ConfigError) as info:
        MODELS.build(
            dict(
                type='mcod_plugin.MultiBackboneClassifier',
                branches=BRANCHES,
                input_size=32,
                data_preprocessor=settings))
    assert str(info.value).startswith(message)
