"""What those who write teachers, losses and hooks rely on."""
import copy

import pytest
import torch
import torch.nn as nn
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS

from mcod_plugin.errors import ConfigError
from mcod_plugin.models.heads import (BaseTeacher, EnsembleTeacher,
                                      GatedTeacher, PeerTeacher)
from mcod_plugin.models.losses import (BalancedKDLoss, BaseKDLoss,
                                       DiscontinuousKDLoss, MutualKDLoss,
                                       discontinuous_kd_loss)
from mcod_plugin.registry import MODELS
from mcod_plugin.structures import BatchDataSample

HEAD = dict(type='LinearClsHead', num_classes=5)
NET = dict(
    backbone=dict(type='mcod_plugin.CifarAlexNet', width=4), head=HEAD)
RESNET = dict(
    backbone=dict(type='mcod_plugin.CifarResNet', depth=8, width=4), head=HEAD)
NAMES = ['resnet', 'a', 'b']


def make(branches=None, **kwargs):
    torch.manual_seed(0)
    branches = branches or dict(resnet=RESNET, a=NET, b=NET)
    cohort = MODELS.build(
        dict(
            type='mcod_plugin.MultiBackboneClassifier',
            input_size=32,
            branches=copy.deepcopy(branches),
            **kwargs))
    cohort.init_weights()
    return cohort.double().eval()


def batch():
    inputs = torch.randn(
        4,
        3,
        32,
        32,
        dtype=torch.double,
        generator=torch.Generator().manual_seed(1))
    return inputs, BatchDataSample(gt_label=torch.arange(4))


def losses_of(cohort):
    return cohort(*batch(), mode='loss')


# Base classes


def test_ours_are_derived_from_the_base_classes():
    for teacher in (EnsembleTeacher, GatedTeacher, PeerTeacher):
        assert issubclass(teacher, BaseTeacher)
    for loss in (DiscontinuousKDLoss, MutualKDLoss, BalancedKDLoss):
        assert issubclass(loss, BaseKDLoss)
    with pytest.raises(NotImplementedError):
        BaseTeacher()({})
    with pytest.raises(NotImplementedError):
        BaseTeacher().ensemble({})
    with pytest.raises(NotImplementedError):
        BaseKDLoss()(None, None)


class FirstTeacher(BaseTeacher):
    """The others follow the first, whose labels it looks at."""
    needs_labels = True

    def setup(self, names, num_classes):
        self.told = list(names), num_classes

    def ensemble(self, logits):
        return torch.stack(list(logits.values())).mean(0)

    def forward(self, logits, *, labels):
        self.seen = labels
        first, *others = logits
        return dict.fromkeys(others, logits[first].detach())


class SquareLoss(BaseKDLoss):

    def forward(self, logits, targets):
        return (logits - targets).square().mean((1, 2))


def test_derived_parts():
    cohort = make(teacher=FirstTeacher(), distill=SquareLoss())
    assert cohort.teacher.told == (NAMES, 5)
    cohort.kd_weight = .5
    losses = losses_of(cohort)
    assert torch.equal(cohort.teacher.seen, torch.eye(5)[:4].double())
    logits = cohort.branch_logits(batch()[0])
    assert 'resnet.loss_kd' not in losses
    for name in 'ab':
        torch.testing.assert_close(
            losses[f'{name}.loss_kd'],
            .5 * (logits[name] - logits['resnet']).square().mean())


class OtherTeacher(nn.Module):
    """Has the calls alone."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def ensemble(self, logits):
        return self.scale * sum(logits.values())

    def forward(self, logits):
        with torch.no_grad():
            return dict.fromkeys(logits, self.ensemble(logits))


class OtherLoss(nn.Module):

    def forward(self, logits, targets):
        return (logits - targets).square().mean((1, 2))


def test_modules_without_base_class_are_adapted():
    teacher, loss = OtherTeacher(), OtherLoss()
    cohort = make(teacher=teacher, distill=loss)
    # It is still the user's object, with the user's keys.
    assert cohort.teacher is teacher and type(teacher) is OtherTeacher
    assert 'teacher.scale' in cohort.state_dict()
    assert not (teacher.needs_labels or teacher.per_peer or teacher.ordered)
    assert teacher.loss is None and not loss.needs_own_grad
    cohort.kd_weight = 1.
    copied = copy.deepcopy(cohort)
    losses = losses_of(cohort)
    assert losses['a.loss_kd'] > 0
    assert torch.equal(losses_of(copied)['a.loss_kd'], losses['a.loss_kd'])
    cohort.distill = OtherLoss()
    assert torch.equal(losses_of(cohort)['a.loss_kd'], losses['a.loss_kd'])


@pytest.mark.parametrize('scope', [None, 'mmpretrain', 'mcod_plugin'])
@pytest.mark.parametrize('registry', [MODELS, MMPRETRAIN_MODELS])
@pytest.mark.parametrize('prefix', ['', 'mmpretrain.', 'mcod_plugin.'])
def test_parts_are_found(scope, registry, prefix):
    parts = dict(UsersTeacher=FirstTeacher, UsersLoss=SquareLoss)
    for name, part in parts.items():
        registry.register_module(name=name, module=part)
    try:
        config = dict(
            teacher=dict(type=f'{prefix}UsersTeacher'),
            distill=dict(type=f'{prefix}UsersLoss'))
        with DefaultScope.overwrite_default_scope(scope):
            cohort = make(branches=dict(a=NET), **config)
    finally:
        for name in parts:
            del registry.module_dict[name]
    assert type(cohort.teacher) is FirstTeacher
    assert type(cohort.distill) is SquareLoss


# Features


class FeatureLoss(BaseKDLoss):
    needs_feats = True

    def setup(self, names, num_classes, feat_shapes):
        self.shapes = feat_shapes
        self.maps = nn.ModuleDict({
            name: nn.Linear(feat_shapes[name][-1][0], 2)
            for name in names
        })

    def forward(self, logits, targets, *, feats, names):
        self.names, self.feats = names, feats
        return torch.stack([
            self.maps[name](feats[name][-1].mean((2, 3))).square().mean()
            for name in names
        ])


class FeatureTeacher(EnsembleTeacher):
    needs_feats = True

    def forward(self, logits, *, feats):
        self.feats = feats
        return super().forward(logits)


def test_features_are_computed_once():
    cohort = make(teacher=FeatureTeacher(), distill=FeatureLoss())
    calls = []
    for branch in cohort.branches.values():
        branch.backbone.register_forward_hook(lambda *_: calls.append(1))
    plain = losses_of(cohort)
    assert len(calls) == 3 and not hasattr(cohort.distill, 'feats')
    cohort.kd_weight = 1.
    losses = losses_of(cohort)
    assert len(calls) == 6
    assert cohort.distill.names == NAMES
    assert cohort.teacher.feats is cohort.distill.feats
    for name, branch in cohort.branches.items():
        # by another way to the same numbers
        assert torch.equal(losses[f'{name}.loss_ce'], plain[f'{name}.loss_ce'])
        expected = branch.extract_feat(batch()[0], stage='backbone')
        found = cohort.distill.feats[name]
        assert torch.equal(found[-1], expected[-1])
        assert cohort.distill.shapes[name] == tuple(
            tuple(value.shape[1:]) for value in found)
    grad, = torch.autograd.grad(losses['a.loss_kd'],
                                cohort.branches['a'].backbone.parameters(),
                                allow_unused=True)[:1]
    assert grad.any()


def test_features_of_a_branch_without_a_backbone():
    timm = dict(type='TimmClassifier', model_name='test_resnet', num_classes=5)
    with pytest.raises(
            ConfigError,
            match='^model.distill.type FeatureLoss needs features, .*; got b, '
            'a TimmClassifier$'):
        make(branches=dict(a=NET, b=timm), distill=FeatureLoss())


def test_own_parameters_have_gradients_in_off_phases():
    cohort = make(distill=FeatureLoss())
    with torch.no_grad():
        cohort.distill.maps['a'].weight.fill_(float('nan'))
    plain = make(distill=None)
    plain.branches.load_state_dict(cohort.branches.state_dict())
    total, _ = cohort.parse_losses(losses_of(cohort))
    total.backward()
    assert torch.equal(total, plain.parse_losses(losses_of(plain))[0])
    for parameter in cohort.distill.parameters():
        assert parameter.grad is not None and not parameter.grad.any()


def test_teachers_parameters_that_nothing_reaches():
    """DistributedDataParallel would wait for their gradients."""

    class Teacher(OwnLossTeacher):
        loss = None

    for weight in (0., 1.):
        cohort = make(teacher=Teacher())
        cohort.kd_weight = weight
        cohort.parse_losses(losses_of(cohort))[0].backward()
        assert cohort.teacher.scale.grad == 0


@pytest.mark.parametrize('own', [('loss', 'loss_ce'), ('loss', 'loss_kd')])
def test_names_of_own_losses(own):

    class Net(nn.Sequential):

        def _get_loss(self, logits, data_samples):
            return dict.fromkeys(own, logits.square().mean())

    net = Net(nn.Flatten(), nn.Linear(3 * 32 * 32, 5))
    cohort = make(branches=dict(a=NET, b=net))
    if 'loss_kd' in own:
        for call in (cohort.check_distillation, lambda: losses_of(cohort)):
            with pytest.raises(
                    ConfigError, match='model.branches.b calls a loss of its '
                    'own loss_kd, as'):
                call()
        return
    logits = cohort.branch_logits(batch()[0])['b']
    assert losses_of(cohort)['b.loss_ce'] == 2 * logits.square().mean()


# Without distillation loss


class OwnLossTeacher(EnsembleTeacher):

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def loss(self, logits, labels):
        return dict(loss_ce=self.scale * sum(logits.values()).square().mean())


def test_cohort_that_never_distils():
    teacher = OwnLossTeacher()
    cohort = make(teacher=teacher, distill=None)
    assert cohort.distill is None
    cohort.kd_weight = 1.
    losses = losses_of(cohort)
    assert set(losses) == {
        'resnet.loss_ce', 'a.loss_ce', 'b.loss_ce', 'kd_weight'
    }
    assert losses['kd_weight'] == 0
    # DistributedDataParallel would wait for it.
    cohort.parse_losses(losses)[0].backward()
    assert teacher.scale.grad == 0
    assert 'teacher.loss_ce' in losses_of(make(teacher=OwnLossTeacher()))
    # as each of them alone
    off = make()
    for key, value in losses_of(off).items():
        assert torch.equal(losses[key], value)
    # It compares nothing, so that any teacher will do.
    make(teacher=dict(type='mcod_plugin.PeerTeacher'), distill=None)


def test_left_out_is_the_default():
    assert type(make().distill) is DiscontinuousKDLoss
    assert type(make(distill={}).distill) is DiscontinuousKDLoss
    assert make(distill=dict(temperature=4.)).distill.temperature == 4
    teacher = make(teacher=dict(fusion='min_logit')).teacher
    assert type(teacher) is EnsembleTeacher and teacher.fusion == 'min_logit'


@pytest.mark.parametrize('key, part, words', [
    ('distill', 'EnsembleTeacher', 'BaseKDLoss; got EnsembleTeacher, a Base'),
    ('teacher', 'DKDLoss', 'BaseTeacher; got DKDLoss, a BaseKDLoss'),
])
def test_part_of_the_other_kind(key, part, words):
    with pytest.raises(
            ConfigError, match=f'model.{key}.type must be a {words}'):
        make(**{key: dict(type=f'mcod_plugin.{part}')})


# Weights


def test_weights_of_branches():
    cohort = make(
        branches=dict(resnet=RESNET, a=NET, b=NET, c=dict(NET, frozen=True)))
    assert type(cohort.kd_weights) is dict
    assert cohort.kd_weights == dict(resnet=0., a=0., b=0.)
    cohort.kd_weight = .5
    assert cohort.kd_weights == dict(resnet=.5, a=.5, b=.5)
    losses = losses_of(cohort)
    assert not any(key.endswith('.kd_weight') for key in losses)

    cohort.kd_weights.update(a=2., b=0.)
    assert cohort.kd_weight == 2.
    cohort.ratio_due = True
    losses = losses_of(cohort)
    assert 'b.loss_kd' not in losses and 'c.loss_kd' not in losses
    logged = {
        key: value.item()
        for key, value in losses.items() if key.endswith('kd_weight')
    }
    assert logged == {
        'kd_weight': 2.,
        'resnet.kd_weight': .5,
        'a.kd_weight': 2.,
        'b.kd_weight': 0.
    }
    logits = cohort.branch_logits(batch()[0])
    target = sum(logits.values()).detach() / 4
    ratios = {}
    for name, weight in dict(resnet=.5, a=2.).items():
        kd = weight * discontinuous_kd_loss(logits[name], target, 3.)
        torch.testing.assert_close(losses[f'{name}.loss_kd'], kd)
        own = losses[f'{name}.loss_ce']
        student = logits[name].detach().requires_grad_()
        kd_grad, = torch.autograd.grad(
            weight * discontinuous_kd_loss(student, target, 3.), student)
        own_grad, = torch.autograd.grad(
            nn.functional.cross_entropy(student, torch.arange(4)), student)
        ratios[name] = kd_grad.norm() / own_grad.norm()
        torch.testing.assert_close(losses[f'{name}.kd_ratio'], ratios[name])
        assert own > 0
    total, logs = cohort.parse_losses(losses)
    torch.testing.assert_close(
        total, sum(value for key, value in losses.items() if 'loss' in key))
    assert logs['b.kd_weight'] == 0

    # Who names some does not distil the others, which learn all the same.
    cohort.kd_weights = dict(b=1.)
    assert cohort.kd_weights == dict(resnet=0., a=0., b=1.)
    losses = losses_of(cohort)
    assert {'resnet.loss_ce', 'a.loss_ce', 'b.loss_kd'} <= set(losses)
    assert 'a.loss_kd' not in losses
    for name in ('c', 'resnett'):
        with pytest.raises(
                ConfigError, match=f"model.kd_weights names '{name}', which"):
            cohort.kd_weights = {name: 1.}
        cohort.kd_weights[name] = 1.
        with pytest.raises(ConfigError, match=f"names '{name}'"):
            losses_of(cohort)
        del cohort.kd_weights[name]


def test_who_has_no_target_is_not_distilled():
    """As the log tells, and from it the record."""

    class Nobody(EnsembleTeacher):

        def forward(self, logits):
            return {}

    cohort = make(teacher=dict(members='a'))
    cohort.kd_weight = 1.
    losses = losses_of(cohort)
    assert 'a.loss_kd' not in losses and losses['b.loss_kd'] > 0
    assert {
        key: value.item()
        for key, value in losses.items() if key.endswith('kd_weight')
    } == {
        'kd_weight': 1.,
        'resnet.kd_weight': 1.,
        'a.kd_weight': 0.,
        'b.kd_weight': 1.
    }
    cohort = make(teacher=Nobody())
    cohort.kd_weight = 1.
    losses = losses_of(cohort)
    assert losses['kd_weight'] == 0 and 'a.loss_kd' not in losses


def test_targets_are_not_moved():
    """Whether or not those who wrote teacher and loss have thought of it."""

    class Same(BaseTeacher):

        def ensemble(self, logits):
            return sum(logits.values())

        def forward(self, logits):
            return dict.fromkeys(logits, self.ensemble(logits))

    class Squares(BaseKDLoss):

        def forward(self, logits, targets):
            assert targets.ndim == 2
            return (logits - targets).square().mean((1, 2))

    cohort = make(teacher=Same(), distill=Squares())
    cohort.kd_weight = 1.
    losses_of(cohort)['a.loss_kd'].backward()
    moved = {
        name
        for name, branch in cohort.branches.items()
        if any(x.grad.any() for x in branch.parameters())
    }
    assert moved == {'a'}


def test_loss_weight_of_all():
    branches = dict(resnet=RESNET, a=dict(NET, loss_weight=3.))
    plain, weighted = make(branches), make(branches, loss_weight=.5)
    for cohort in (plain, weighted):
        cohort.kd_weight = 1.
    plain, weighted = losses_of(plain), losses_of(weighted)
    for key in ('loss_ce', 'loss_kd'):
        assert torch.equal(weighted[f'resnet.{key}'],
                           .5 * plain[f'resnet.{key}'])
        assert torch.equal(weighted[f'a.{key}'], plain[f'a.{key}'])
    with pytest.raises(
            ConfigError,
            match='^model.loss_weight must be a finite number greater than 0'):
        make(loss_weight=0)
