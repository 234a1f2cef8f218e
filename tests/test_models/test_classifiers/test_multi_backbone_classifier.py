import copy
import math
import pickle

import numpy as np
import pytest
import torch
import torch.nn as nn
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.model import ExponentialMovingAverage
from mmengine.optim import OptimWrapper
from mmengine.runner.checkpoint import load_state_dict as load_like_runner
from mmpretrain import get_model
from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS
from mmpretrain.structures import DataSample

from mcod_plugin.errors import ConfigError
from mcod_plugin.models.heads import EnsembleTeacher
from mcod_plugin.models.losses import DiscontinuousKDLoss
from mcod_plugin.registry import DATASETS, MODELS
from mcod_plugin.structures import BatchDataSample

RESNET = dict(
    backbone=dict(type='mcod_plugin.CifarResNet', depth=8, width=4),
    head=dict(type='LinearClsHead', num_classes=5))
ALEXNET = dict(
    backbone=dict(type='mcod_plugin.CifarAlexNet', width=4),
    head=dict(type='LinearClsHead', num_classes=5))
VIT = dict(
    backbone=dict(
        type='TIMMBackbone',
        model_name='vit_tiny_patch16_224',
        img_size=32,
        embed_dim=16,
        depth=1,
        num_heads=2),
    head=dict(type='LinearClsHead', num_classes=5))
# The second learns from softened labels, which its loss must show.
SMOOTHED = dict(
    VIT,
    head=dict(
        VIT['head'],
        loss=dict(
            type='LabelSmoothLoss', label_smooth_val=.2, mode='original')))
TIMM = dict(type='TimmClassifier', model_name='test_resnet', num_classes=5)


def make_config(*names, **kwargs):
    branches = dict(resnet=RESNET, alexnet=ALEXNET, vit=SMOOTHED)
    cfg = dict(
        type='mcod_plugin.MultiBackboneClassifier',
        branches={name: branches[name]
                  for name in names or branches},
        input_size=32)
    cfg.update(kwargs)
    return copy.deepcopy(cfg)


def make_cohort(*names, seed=0, **kwargs):
    torch.manual_seed(seed)
    cohort = MODELS.build(make_config(*names, **kwargs))
    cohort.init_weights()
    return cohort


def make_batch(num=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(num, 3, 32, 32, generator=generator)
    return inputs, [DataSample().set_gt_label(3 * i % 5) for i in range(num)]


def train_step(model, seed=0, **optimizer):
    """One real step, with the preprocessor and its batch augmentations."""
    inputs, samples = make_batch(seed=seed)
    wrapper = OptimWrapper(
        torch.optim.SGD(model.parameters(), **{
            'lr': .1,
            **optimizer
        }))
    return model.train_step(
        dict(inputs=list(inputs), data_samples=samples), wrapper)


def kl_by_loop(student, teacher, temperature):
    """T^2 KL(teacher || student), one number at a time."""
    total = 0.
    for z_student, z_teacher in zip(student.tolist(), teacher.tolist()):
        e_student = [math.exp(z / temperature) for z in z_student]
        e_teacher = [math.exp(z / temperature) for z in z_teacher]
        for a, b in zip(e_student, e_teacher):
            q, p = a / sum(e_student), b / sum(e_teacher)
            total += p * math.log(p / q)
    return temperature**2 * total / len(student)


def refusal(**kwargs):
    """What the user reads who asks for such a cohort."""
    with pytest.raises(ConfigError) as info:
        MODELS.build(make_config(**kwargs))
    assert '\n' not in str(info.value)
    return str(info.value)


def assert_same_weights(model, other):
    state_dict = other.state_dict()
    assert list(model.state_dict()) == list(state_dict)
    for key, value in model.state_dict().items():
        assert torch.equal(value, state_dict[key]), key


class CountingTeacher(EnsembleTeacher):
    calls = 0

    def forward(self, logits):
        self.calls += 1
        return super().forward(logits)


class CountingLoss(DiscontinuousKDLoss):
    calls = 0

    def forward(self, *args):
        self.calls += 1
        return super().forward(*args)


# Loss


@pytest.mark.parametrize('fusion', ['mean', 'prob_mean'])
@pytest.mark.parametrize('temperature', [1, 3.])
@pytest.mark.parametrize('kd_weight', [.3, 2.])
def test_loss(fusion, temperature, kd_weight):
    cohort = make_cohort(
        teacher=dict(type='mcod_plugin.EnsembleTeacher', fusion=fusion),
        distill=dict(
            type='mcod_plugin.DiscontinuousKDLoss',
            temperature=temperature)).double().eval()
    inputs, samples = make_batch()
    inputs = inputs.double()
    cohort.kd_weight = kd_weight
    losses = cohort(inputs, samples, mode='loss')
    names = ['resnet', 'alexnet', 'vit']
    assert set(losses) == {'kd_weight'}.union(
        *({f'{name}.loss_ce', f'{name}.loss_kd'} for name in names))
    assert losses['kd_weight'] == kd_weight

    logits = {name: cohort.branches[name](inputs) for name in names}
    rows = [logits[name].detach() for name in names]
    if fusion == 'mean':
        target = (rows[0] + rows[1] + rows[2]) / 3
    else:
        target = sum(row.softmax(1) for row in rows).div(3).log()
    expected = 0
    for name, branch in cohort.branches.items():
        own = branch(inputs, samples, mode='loss')['loss']
        assert torch.equal(losses[f'{name}.loss_ce'], own)
        kd = kd_weight * kl_by_loop(logits[name], target, temperature)
        assert losses[f'{name}.loss_kd'].item() == pytest.approx(
            kd, rel=1e-9)
        expected += own.item() + kd
    total, logs = cohort.parse_losses(losses)
    assert total.item() == pytest.approx(expected, rel=1e-9)
    assert logs['loss'] is total and total.dtype == torch.double


def test_cross_entropies_by_loop():
    """The labels themselves, and the softened ones of the transformer."""
    cohort = make_cohort('alexnet', 'vit').double()
    inputs, samples = make_batch()
    losses = cohort(inputs.double(), samples, mode='loss')
    for name, smoothing in (('alexnet', 0.), ('vit', .2)):
        total = 0.
        for row, sample in zip(cohort.branches[name](inputs.double()).tolist(),
                               samples):
            log_sum = math.log(sum(math.exp(z) for z in row))
            for label, z in enumerate(row):
                share = smoothing / 5 + (1 - smoothing) * (
                    label == sample.gt_label.item())
                total -= share * (z - log_sum)
        assert losses[f'{name}.loss_ce'].item() == pytest.approx(
            total / len(samples), rel=1e-6)


def test_off_phase():
    cohort = make_cohort(teacher=CountingTeacher(), distill=CountingLoss())
    inputs, samples = make_batch()
    assert cohort.kd_weight == 0
    losses = cohort(inputs, samples, mode='loss')
    assert set(losses) == {
        'resnet.loss_ce', 'alexnet.loss_ce', 'vit.loss_ce', 'kd_weight'
    }
    assert losses['kd_weight'] == 0
    assert cohort.teacher.calls == cohort.distill.calls == 0
    cohort.kd_weight = 1e-3
    cohort(inputs, samples, mode='loss')
    # once for all branches
    assert cohort.teacher.calls == cohort.distill.calls == 1


def test_a_branch_learns_from_its_own_terms_only():
    """Nothing flows through the teacher to the others."""
    cohort = make_cohort()
    cohort.kd_weight = 1.
    inputs, samples = make_batch()
    losses = cohort(inputs, samples, mode='loss')
    for name in cohort.branches:
        cohort.zero_grad()
        losses[f'{name}.loss_kd'].backward(retain_graph=True)
        for other, branch in cohort.branches.items():
            reached = any(param.grad is not None and param.grad.any()
                          for param in branch.parameters())
            assert reached == (other == name)


def test_gradient_of_the_logits():
    """T^2 KL has the gradient T (q - p) / N."""
    logits = {}
    cohort = make_cohort('resnet', 'alexnet').double()
    for name, branch in cohort.branches.items():
        branch.register_forward_hook(
            lambda _, __, output, name=name: logits.update({name: output}))
    cohort.kd_weight = .5
    inputs, samples = make_batch()
    losses = cohort(inputs.double(), samples, mode='loss')
    target = sum(logits.values()).detach() / 2
    for name, value in logits.items():
        grad, = torch.autograd.grad(
            losses[f'{name}.loss_kd'], value, retain_graph=True)
        torch.testing.assert_close(
            grad, .5 * 3 * ((value / 3).softmax(1) -
                            (target / 3).softmax(1)) / 4)


def test_one_branch_agrees_with_itself():
    cohort = make_cohort('resnet')
    cohort.kd_weight = 1.
    inputs, samples = make_batch()
    losses = cohort(inputs, samples, mode='loss')
    assert losses['resnet.loss_kd'] == 0
    cohort.parse_losses(losses)[0].backward()
    assert all(param.grad.isfinite().all() for param in cohort.parameters())


@pytest.mark.parametrize('augment', [
    dict(type='Mixup', alpha=1.),
    dict(type='CutMix', alpha=1.),
])
def test_batch_augmentation(augment):
    """All branches see the same mixed images and soft labels."""
    cohort = make_cohort(
        train_cfg=dict(augments=[augment]),
        data_preprocessor=dict(mean=[0.] * 3, std=[1.] * 3, num_classes=5))
    seen = []

    def note(model, args, kwargs):
        seen.append((kwargs['inputs'], kwargs['data_samples']))

    cohort.register_forward_pre_hook(note, with_kwargs=True)
    cohort.kd_weight = 1.
    # frozen, so that the losses can be computed once more
    cohort.eval()
    logs = train_step(cohort, lr=0.)
    (mixed, samples), = seen
    inputs, plain = make_batch()
    assert not torch.equal(mixed, inputs)
    scores = torch.stack([sample.gt_score for sample in samples])
    torch.testing.assert_close(scores.sum(1), torch.ones(4))
    assert (scores.max(1).values < 1).any()
    logits = cohort.branch_logits(mixed)
    for name, share in (('resnet', 0.), ('vit', .2)):
        target = share / 5 + (1 - share) * scores
        expected = -(target * logits[name].log_softmax(1)).sum(1).mean()
        torch.testing.assert_close(logs[f'{name}.loss_ce'], expected)
        target = sum(logits.values()).detach() / 3
        # A divergence this small has lost digits in float32: its terms are
        # a thousand times larger.
        assert logs[f'{name}.loss_kd'].item() == pytest.approx(
            kl_by_loop(logits[name], target, 3.), rel=1e-3, abs=2e-6)


def test_half_precision():
    cohort = make_cohort().eval()
    cohort.kd_weight = 1.
    inputs, samples = make_batch()
    exact = cohort(inputs, samples, mode='loss')
    with torch.autocast('cpu', torch.bfloat16):
        assert cohort.branches['resnet'](inputs).dtype == torch.bfloat16
        losses = cohort(inputs, samples, mode='loss')
        predictions = cohort(inputs, mode='predict')
    for key, value in losses.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, exact[key], rtol=.1, atol=.02)
    assert predictions[0].pred_score.dtype == torch.float32
    cohort.parse_losses(losses)[0].backward()
    cohort.to(torch.bfloat16)
    losses = cohort(inputs.bfloat16(), samples, mode='loss')
    assert {value.dtype for value in losses.values()} == {torch.float32}


def test_double_precision():
    cohort = make_cohort().double()
    cohort.kd_weight = 1.
    inputs, samples = make_batch()
    losses = cohort(inputs.double(), samples, mode='loss')
    del losses['kd_weight']
    assert {value.dtype for value in losses.values()} == {torch.double}
    assert cohort(inputs.double()).dtype == torch.double


def test_accuracy_of_a_head_is_logged_but_not_added():
    branch = dict(RESNET, head=dict(RESNET['head'], cal_acc=True))
    cohort = make_cohort(branches=dict(net=branch))
    losses = cohort(*make_batch(), mode='loss')
    assert 'net.accuracy_top-1' in losses
    assert torch.equal(cohort.parse_losses(losses)[0], losses['net.loss_ce'])


@pytest.mark.parametrize('memory_format', ['contiguous', 'auto'])
@pytest.mark.parametrize('names', [['resnet'], ['alexnet', 'resnet', 'vit']])
def test_without_distillation_as_alone(names, memory_format):
    """Weights are bit for bit those of the same classifier, trained alone;
    beyond rounding in another memory format than its own."""
    cohort = make_cohort(*names, memory_format=memory_format)
    exact = dict(rtol=0., atol=0.)
    close = exact if memory_format == 'contiguous' else dict(
        rtol=1e-4, atol=1e-5)
    cfg = copy.deepcopy(RESNET)
    cfg['head']['in_channels'] = 16
    torch.manual_seed(0)
    alone = MMPRETRAIN_MODELS.build(
        dict(
            type='ImageClassifier',
            neck=dict(type='GlobalAveragePooling'),
            **cfg))
    alone.init_weights()
    if len(names) == 1:
        assert_same_weights(cohort.branches['resnet'], alone)
    alone.load_state_dict(cohort.branches['resnet'].state_dict())
    before = copy.deepcopy(alone)
    for seed in range(3):
        settings = dict(seed=seed, momentum=.9, weight_decay=1e-2)
        logs = train_step(cohort, **settings)
        own = train_step(alone, **settings)
        torch.testing.assert_close(logs['resnet.loss_ce'], own['loss'],
                                   **close)
        torch.testing.assert_close(
            dict(cohort.branches['resnet'].state_dict()),
            dict(alone.state_dict()), **close)
    assert not torch.equal(alone.head.fc.weight, before.head.fc.weight)


def test_distillation_brings_branches_together():
    def divergence(kd_weight):
        cohort = make_cohort('resnet', 'alexnet')
        cohort.kd_weight = kd_weight
        for _ in range(10):
            train_step(cohort, lr=.02)
        cohort.kd_weight = 1.
        losses = cohort(*make_batch(), mode='loss')
        return losses['resnet.loss_kd'] + losses['alexnet.loss_kd']

    assert divergence(1.) < .8 * divergence(0)


# Distillation of all branches at once


class RoundTeacher(EnsembleTeacher):
    """Each branch follows the next."""

    def forward(self, logits):
        values = [value.detach() for value in logits.values()]
        return dict(zip(logits, values[1:] + values[:1]))


class SmallTeacher(EnsembleTeacher):
    """The first branch follows the ensemble, the others the first."""

    def forward(self, logits):
        first, *others = logits
        target = logits[first].detach()
        return {
            first: self.ensemble(logits).detach(),
            **dict.fromkeys(others, target)
        }


@pytest.mark.parametrize('teacher', [
    EnsembleTeacher(),
    EnsembleTeacher('prob_mean'),
    RoundTeacher(),
    SmallTeacher()
])
def test_distillation_is_that_of_each_branch(teacher):
    cohort = make_cohort(teacher=teacher).double()
    cohort.kd_weight = .3
    inputs, samples = make_batch()
    losses = cohort(inputs.double(), samples, mode='loss')
    logits = cohort.branch_logits(inputs.double())
    targets = teacher(logits)
    for name, value in logits.items():
        expected = .3 * cohort.distill(value, targets[name])
        assert torch.equal(losses[f'{name}.loss_kd'], expected)
        found, wanted = (
            torch.autograd.grad(
                term, cohort.branches[name].head.fc.weight,
                retain_graph=True)[0]
            for term in (losses[f'{name}.loss_kd'], expected))
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-15)


# Teachers that ask for more


class PartialTeacher(EnsembleTeacher):
    """Only one branch has a target."""

    def forward(self, logits):
        return dict(alexnet=self.ensemble(logits).detach())


def test_branches_without_a_target():
    cohort = make_cohort(teacher=PartialTeacher())
    cohort.kd_weight = .3
    losses = cohort(*make_batch(), mode='loss')
    assert [key for key in losses if 'loss_kd' in key] == ['alexnet.loss_kd']
    assert losses['kd_weight'] == losses['alexnet.kd_weight']
    assert losses['vit.kd_weight'] == losses['resnet.kd_weight'] == 0
    logits = cohort.branch_logits(make_batch()[0])
    target = sum(logits.values()).detach() / 3
    assert losses['alexnet.loss_kd'].item() == pytest.approx(
        .3 * kl_by_loop(logits['alexnet'], target, 3.), rel=1e-3)


def test_the_only_member_is_not_distilled():
    cohort = make_cohort(
        teacher=dict(type='mcod_plugin.EnsembleTeacher', members='vit'))
    cohort.kd_weight = 1.
    losses = cohort(*make_batch(), mode='loss')
    assert 'vit.loss_ce' in losses and 'vit.loss_kd' not in losses
    assert 'resnet.loss_kd' in losses and 'alexnet.loss_kd' in losses
    # nobody follows who alone would follow
    cohort = make_cohort(
        'vit', teacher=dict(type='mcod_plugin.EnsembleTeacher', members='vit'))
    cohort.kd_weight = 1.
    assert set(cohort(
        *make_batch(), mode='loss')) == {'vit.loss_ce', 'kd_weight'}


@pytest.mark.parametrize('setting', [
    dict(members='alexnt'),
    dict(weights=dict(alexnt=1)),
])
def test_teacher_is_checked_against_the_cohort(setting):
    teacher = dict(type='mcod_plugin.EnsembleTeacher', **setting)
    assert 'did you mean alexnet?' in refusal(teacher=teacher)


@pytest.mark.parametrize('fusion', ['min_logit', 'confidence'])
@pytest.mark.parametrize('mixed', [False, True])
def test_teachers_that_need_labels(fusion, mixed):
    """They get them from lists and from batches, single and mixed ones."""
    cohort = make_cohort(
        teacher=dict(type='mcod_plugin.EnsembleTeacher', fusion=fusion))
    # otherwise dropout or norm would differ between the calls
    cohort.double().eval()
    cohort.kd_weight = .3
    inputs = make_batch()[0].double()
    fields = make_fields()
    labels = fields['gt_score'].double() if mixed else torch.eye(
        5, dtype=torch.double)[fields['gt_label']]
    if not mixed:
        del fields['gt_score']
    logits = cohort.branch_logits(inputs)
    targets = cohort.teacher(logits, labels)
    for samples in (BatchDataSample(**fields),
                    list(BatchDataSample(**fields))):
        losses = cohort(inputs, samples, mode='loss')
        for name, value in logits.items():
            expected = .3 * kl_by_loop(value, targets[name], 3.)
            assert losses[f'{name}.loss_kd'].item() == pytest.approx(
                expected, rel=1e-9)
    torch.testing.assert_close(
        cohort(inputs), sum(logits.values()) / 3)


@pytest.mark.parametrize('mixed', [False, True])
@pytest.mark.parametrize('fusion', ['mean', 'min_logit'])
def test_losses_that_need_labels(fusion, mixed):
    """They get them as probabilities, single and mixed ones."""
    cohort = make_cohort(
        teacher=dict(type='mcod_plugin.EnsembleTeacher', fusion=fusion),
        distill=dict(type='mcod_plugin.DiscontinuousKDLoss', where='surer'))
    cohort.double().eval()
    cohort.kd_weight = .3
    inputs = make_batch(16)[0].double()
    fields = make_fields(16)
    labels = fields['gt_score'].double() if mixed else torch.eye(
        5, dtype=torch.double)[fields['gt_label']]
    if not mixed:
        del fields['gt_score']
    logits = cohort.branch_logits(inputs)
    targets = cohort.teacher(logits,
                             *([] if fusion == 'mean' else [labels]))
    losses = cohort(inputs, BatchDataSample(**fields), mode='loss')
    for name, value in logits.items():
        shares = [(labels * score.softmax(1)).sum(1)
                  for score in (value, targets[name])]
        counts = (shares[1] > shares[0]).nonzero().flatten()
        assert 0 < len(counts) < (17 if fusion == 'min_logit' else 16)
        expected = .3 * len(counts) / 16 * kl_by_loop(
            value[counts], targets[name][counts], 3.)
        assert losses[f'{name}.loss_kd'].item() == pytest.approx(
            expected, rel=1e-9)


@pytest.mark.parametrize('fusion', ['min_logit', 'confidence'])
def test_mixup_with_labels(fusion):
    cohort = make_cohort(
        teacher=dict(type='mcod_plugin.EnsembleTeacher', fusion=fusion),
        train_cfg=dict(augments=[dict(type='Mixup', alpha=1.)]))
    cohort.kd_weight = 1.
    seen = []
    cohort.teacher.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs['labels']),
        with_kwargs=True)
    logs = train_step(cohort)
    labels, = seen
    assert (labels.max(1).values < 1).any()
    torch.testing.assert_close(labels.sum(1), torch.ones(4))
    assert logs['resnet.loss_kd'] > 0 and logs['loss'].isfinite()


PEERS = dict(
    teacher=dict(type='mcod_plugin.PeerTeacher'),
    distill=dict(type='mcod_plugin.MutualKDLoss'))


# How hard the distillation pulls


def norm_of_kd(student, teacher, temperature):
    """The gradient of the standard loss is T (q - p) / N."""
    q, p = ((value / temperature).softmax(1) for value in (student, teacher))
    return temperature * (q - p).norm() / len(student)


@pytest.mark.parametrize('mixed', [False, True])
@pytest.mark.parametrize('kd_weight', [.3, 2.])
@pytest.mark.parametrize('settings', [
    {},
    PEERS,
    dict(
        teacher=dict(type='mcod_plugin.EnsembleTeacher', fusion='min_logit'),
        distill=dict(type='mcod_plugin.DiscontinuousKDLoss', temperature=1)),
])
def test_ratio(settings, kd_weight, mixed):
    """Against the gradient (p - y) / N of the cross entropy, whatever the
    labels, the smoothing of a head and the weight of a branch are."""
    branches = dict(
        resnet=dict(RESNET, loss_weight=3.),
        alexnet=ALEXNET,
        vit=SMOOTHED,
        fixed=dict(ALEXNET, frozen=True))
    cohort = make_cohort(branches=branches, **settings).double().eval()
    fields = make_fields()
    labels = fields['gt_score'].double() if mixed else torch.eye(
        5, dtype=torch.double)[fields['gt_label']]
    if not mixed:
        del fields['gt_score']
    cohort.kd_weight = kd_weight
    cohort.ratio_due = True
    inputs = make_batch()[0].double()
    losses = cohort(inputs, BatchDataSample(**fields), mode='loss')
    assert [key for key in losses if key.endswith('kd_ratio')] == [
        f'{name}.kd_ratio' for name in ('resnet', 'alexnet', 'vit')
    ]
    logits = {
        name: value.detach()
        for name, value in cohort.branch_logits(inputs).items()
    }
    targets = cohort.teacher(logits,
                             *([labels] if cohort.teacher.__dict__.get(
                                 'needs_labels') else []))
    for name in ('resnet', 'alexnet', 'vit'):
        q = logits[name].softmax(1)
        y = .8 * labels + .2 / 5 if name == 'vit' else labels
        own = (q - y).norm() / 4
        if settings is PEERS:
            # of three peers
            kd = sum(q - peer.softmax(1)
                     for peer in targets[name]).norm() / 3 / 4
        else:
            kd = norm_of_kd(logits[name], targets[name],
                            cohort.distill.temperature)
        ratio = losses[f'{name}.kd_ratio']
        assert ratio.shape == () and not ratio.requires_grad
        # The toolbox makes softened labels in single precision.
        assert ratio.item() == pytest.approx(
            (kd_weight * kd / own).item(), rel=1e-6)
    # It is not added to the loss, but logged.
    total, logs = cohort.parse_losses(losses)
    assert 'vit.kd_ratio' in logs
    assert total.item() == pytest.approx(
        sum(value.item() for key, value in losses.items() if 'loss' in key))


def test_ratio_when_it_is_due():
    """Once, in the next step that distils."""
    cohort = make_cohort(teacher=PartialTeacher())
    batch = make_batch()
    cohort.kd_weight = 1.
    assert cohort.ratio_due is False
    assert not any('ratio' in key for key in cohort(*batch, mode='loss'))
    cohort.ratio_due, cohort.kd_weight = True, 0.
    assert not any('ratio' in key for key in cohort(*batch, mode='loss'))
    cohort.kd_weight = 1.
    with torch.no_grad():
        assert not any('ratio' in key for key in cohort(*batch, mode='loss'))
    assert cohort.ratio_due is True
    # Of a branch without a target there is none.
    assert [key for key in cohort(*batch, mode='loss')
            if 'ratio' in key] == ['alexnet.kd_ratio']
    assert cohort.ratio_due is False
    assert not any('ratio' in key for key in cohort(*batch, mode='loss'))


@pytest.mark.parametrize('branch', [RESNET, TIMM, SMOOTHED])
def test_ratio_changes_no_gradient(branch):
    branches = dict(branch=branch, alexnet=ALEXNET)
    results = []
    for due in (False, True):
        cohort = make_cohort(branches=branches)
        cohort.kd_weight, cohort.ratio_due = 1., due
        cohort.parse_losses(cohort(*make_batch(), mode='loss'))[0].backward()
        results.append([param.grad for param in cohort.parameters()])
    assert all(map(torch.equal, *results))


def test_ratio_of_a_balanced_loss():
    """The weight, if nothing is averaged."""
    cohort = make_cohort(
        distill=dict(
            type='mcod_plugin.BalancedKDLoss', momentum=0., limit=1e9))
    cohort.kd_weight, cohort.ratio_due = .3, True
    losses = cohort(*make_batch(), mode='loss')
    for name in cohort.branches:
        assert losses[f'{name}.kd_ratio'].item() == pytest.approx(.3, rel=1e-4)


def test_ratio_of_one_branch():
    """It agrees with its teacher, so that nothing pulls."""
    cohort = make_cohort('resnet')
    cohort.kd_weight, cohort.ratio_due = 1., True
    losses = cohort(*make_batch(), mode='loss')
    assert losses['resnet.kd_ratio'] < 1e-6


def test_ratio_in_half_precision():
    cohort = make_cohort().eval()
    cohort.kd_weight = 1.
    ratios = []
    for enabled in (False, True):
        cohort.ratio_due = True
        with torch.autocast('cpu', torch.bfloat16, enabled=enabled):
            losses = cohort(*make_batch(), mode='loss')
        ratios.append(losses['resnet.kd_ratio'])
    assert ratios[1].dtype == torch.float32
    torch.testing.assert_close(*ratios, rtol=.1, atol=.01)


def test_mutual_learning():
    cohort = make_cohort(**PEERS).double()
    cohort.kd_weight = .5
    inputs, samples = make_batch()
    losses = cohort(inputs.double(), samples, mode='loss')
    logits = cohort.branch_logits(inputs.double())
    for name, value in logits.items():
        expected = sum(
            kl_by_loop(value, peer, 1.) for other, peer in logits.items()
            if other != name) / 2
        assert losses[f'{name}.loss_kd'].item() == pytest.approx(
            .5 * expected, rel=1e-9)
        # each pushes itself, none of its peers
        cohort.zero_grad()
        losses[f'{name}.loss_kd'].backward(retain_graph=True)
        for other, branch in cohort.branches.items():
            reached = any(param.grad is not None and param.grad.any()
                          for param in branch.parameters())
            assert reached == (other == name)
    assert 'needs at least two branches' in refusal(
        branches=dict(resnet=RESNET), **PEERS)


def test_mutual_learning_from_a_frozen_peer():
    """Of the one branch that learns, the targets are stacked no more."""
    cohort = make_cohort(
        branches=dict(net=RESNET, fixed=dict(ALEXNET, frozen=True)),
        **PEERS).double()
    cohort.kd_weight = 1.
    inputs, samples = make_batch()
    losses = cohort(inputs.double(), samples, mode='loss')
    logits = cohort.branch_logits(inputs.double())
    assert losses['net.loss_kd'].item() == pytest.approx(
        kl_by_loop(logits['net'], logits['fixed'], 1.), rel=1e-9)


@pytest.mark.parametrize('teacher, distill, words', [
    (dict(type='mcod_plugin.EnsembleTeacher', leave_one_out=True),
     PEERS['distill'],
     'model.distill.type MutualKDLoss needs a teacher with per_peer, such as '
     'mcod_plugin.PeerTeacher; got model.teacher.type EnsembleTeacher'),
    (None, PEERS['distill'], 'got model.teacher.type EnsembleTeacher'),
    (PEERS['teacher'], {},
     'model.teacher.type PeerTeacher needs a loss with per_peer, such as '
     'mcod_plugin.MutualKDLoss; got model.distill.type DiscontinuousKDLoss'),
])
def test_teacher_and_loss_that_do_not_go_together(teacher, distill, words):
    assert words in refusal(teacher=teacher, distill=distill)


class GivenLoss(nn.Module):
    """Gives what it is told to, and keeps the shapes that it is given."""

    def __init__(self, result):
        super().__init__()
        self.result = result

    def forward(self, logits, targets):
        self.shapes = tuple(logits.shape), tuple(targets.shape)
        return self.result(logits)


def test_contract_of_a_loss():
    cohort = make_cohort(distill=GivenLoss(lambda logits: logits.sum((1, 2))))
    cohort.kd_weight = 1.
    inputs, samples = make_batch()
    losses = cohort(inputs, samples, mode='loss')
    assert cohort.distill.shapes == ((3, 4, 5), (4, 5))
    for name, value in cohort.branch_logits(inputs).items():
        torch.testing.assert_close(losses[f'{name}.loss_kd'], value.sum())
    # a loss for peers of one's own
    loss = GivenLoss(lambda logits: logits.sum((1, 2)))
    loss.per_peer = True
    cohort = make_cohort(teacher=PEERS['teacher'], distill=loss)
    cohort.kd_weight = 1.
    cohort(inputs, samples, mode='loss')
    assert cohort.distill.shapes == ((3, 4, 5), (3, 2, 4, 5))


@pytest.mark.parametrize('result, got', [
    (lambda logits: logits.mean(), r'\(\)'),
    (lambda logits: logits.mean(2), r'\(3, 4\)'),
    (lambda logits: logits.mean((1, 2))[:1], r'\(1,\)'),
    (lambda logits: list(logits.mean((1, 2))), 'list'),
])
def test_losses_of_another_shape(result, got):
    cohort = make_cohort(distill=GivenLoss(result))
    cohort.kd_weight = 1.
    with pytest.raises(
            ConfigError,
            match='^model.distill.type GivenLoss must give a tensor of one '
            rf'loss for each branch, \(3,\); got {got}$'):
        cohort(*make_batch(), mode='loss')


@pytest.mark.parametrize('kd_weight', [0., .5])
def test_gated_teacher(kd_weight):
    """Its own loss is there in every phase, and reaches gate and branches."""
    cohort = make_cohort(teacher=dict(type='mcod_plugin.GatedTeacher'))
    generator = torch.Generator().manual_seed(0)
    for parameter in cohort.teacher.parameters():
        parameter.data.normal_(generator=generator)
    cohort.double().kd_weight = kd_weight
    inputs, samples = make_batch()
    losses = cohort(inputs.double(), samples, mode='loss')
    ensemble = cohort(inputs.double())
    labels = torch.cat([sample.gt_label for sample in samples])
    torch.testing.assert_close(
        losses['teacher.loss_ce'],
        nn.functional.cross_entropy(ensemble, labels))
    total, logs = cohort.parse_losses(losses)
    assert 'teacher.loss_ce' in logs
    assert total.item() == pytest.approx(
        sum(value.item() for key, value in losses.items() if 'loss' in key))
    assert ('vit.loss_kd' in losses) == (kd_weight > 0)
    if kd_weight:
        logits = cohort.branch_logits(inputs.double())
        for name, value in logits.items():
            assert losses[f'{name}.loss_kd'].item() == pytest.approx(
                .5 * kl_by_loop(value, ensemble, 3.), rel=1e-9)
            # the targets are detached
            cohort.zero_grad()
            losses[f'{name}.loss_kd'].backward(retain_graph=True)
            assert all(param.grad is None
                       for param in cohort.teacher.parameters())
    cohort.zero_grad()
    losses['teacher.loss_ce'].backward()
    assert all(param.grad.any() for param in cohort.teacher.parameters())
    assert all(branch.head.fc.weight.grad.any()
               for branch in cohort.branches.values())


def test_state_of_a_gated_teacher():
    teacher = dict(type='mcod_plugin.GatedTeacher')
    cohort, plain = make_cohort(teacher=teacher), make_cohort()
    state_dict = cohort.state_dict()
    assert state_dict['teacher.gate.weight'].shape == (3, 15)
    make_cohort(teacher=teacher, seed=1).load_state_dict(state_dict)
    with pytest.raises(ConfigError, match='it adds teacher .2 keys'):
        plain.load_state_dict(state_dict)
    with pytest.raises(ConfigError, match='it lacks teacher .2 keys'):
        cohort.load_state_dict(plain.state_dict())
    # the branches start as with any other teacher
    for key, value in plain.state_dict().items():
        assert torch.equal(value, state_dict[key]), key


# Batches of which each field is one tensor


def make_fields(num=4):
    generator = torch.Generator().manual_seed(1)
    scores = torch.rand(num, 5, generator=generator).softmax(1)
    return dict(
        gt_label=torch.tensor([3 * i % 5 for i in range(num)]),
        gt_score=scores,
        sample_idx=torch.arange(num))


COUNTED = dict(RESNET, head=dict(RESNET['head'], cal_acc=True))


@pytest.mark.parametrize('branches, names, touched', [
    (dict(resnet=RESNET, vit=SMOOTHED), ['gt_label'], False),
    (dict(resnet=RESNET, vit=SMOOTHED), ['gt_label', 'gt_score'], False),
    (dict(resnet=RESNET, vit=SMOOTHED), ['gt_score'], False),
    (dict(resnet=RESNET, timm=TIMM), ['gt_label', 'sample_idx'], True),
    (dict(resnet=RESNET, timm=TIMM), ['gt_label', 'gt_score'], True),
    (dict(counted=COUNTED, vit=VIT), ['gt_label'], True),
])
def test_loss_of_a_batch(branches, names, touched):
    """It is that of a list of the same samples, bit for bit."""
    cohort = make_cohort(branches=branches)
    cohort.kd_weight = 1.
    inputs, _ = make_batch()
    fields = {name: make_fields()[name] for name in names}
    results = []
    batch = BatchDataSample(**fields)
    for samples in (batch, list(BatchDataSample(**fields))):
        cohort.load_state_dict(make_cohort(branches=branches).state_dict())
        cohort.zero_grad()
        losses = cohort(inputs, samples, mode='loss')
        cohort.parse_losses(losses)[0].backward()
        gradients = {
            key: param.grad for key, param in cohort.named_parameters()
        }
        results.append({**losses, **gradients})
    assert batch.touched is touched
    found, expected = results
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        # Of accuracies there is a list.
        assert torch.equal(
            torch.as_tensor(found[key]), torch.as_tensor(value)), key


@pytest.mark.parametrize('names', [['gt_label', 'sample_idx'], ['gt_score'],
                                   ['gt_label', 'gt_score']])
def test_predictions_of_a_batch(names):
    cohort = make_cohort().eval()
    inputs, _ = make_batch()
    fields = {name: make_fields()[name] for name in names}
    batch = BatchDataSample(**fields)
    result = cohort(inputs, batch, mode='predict')
    assert type(result) is BatchDataSample and not result.touched
    assert list(batch.fields) == names and not batch.touched
    expected = cohort(inputs, list(BatchDataSample(**fields)), mode='predict')
    assert type(expected) is list
    for sample, other in zip(result, expected):
        assert set(sample.all_keys()) == set(other.all_keys())
        for key, value in other.all_items():
            own = sample.get(key)
            assert torch.equal(torch.as_tensor(own), torch.as_tensor(value))
            assert not torch.as_tensor(own).requires_grad
    # once more, in place of the former
    again = cohort(inputs, cohort(inputs, batch, mode='predict'),
                   mode='predict')
    assert list(again.fields) == list(result.fields)


def test_predictions_with_labels():
    cohort = make_cohort('resnet').eval()
    inputs, _ = make_batch()
    labels = torch.arange(len(inputs)) % 2
    result = cohort.predict(inputs, labels)
    assert torch.equal(result.fields['gt_label'].flatten(), labels)
    plain = cohort.predict(inputs)
    assert torch.equal(result[1].pred_score, plain[1].pred_score)
    with pytest.raises(ConfigError, match='inputs by branch are for the loss'):
        cohort.predict(dict(resnet=inputs))


def test_predictions_of_a_touched_batch():
    """Its samples are filled, as those of a list are."""
    cohort = make_cohort('resnet').eval()
    inputs, _ = make_batch()
    batch = BatchDataSample(**make_fields())
    batch[1].set_field('mine', 'note')
    result = cohort(inputs, batch, mode='predict')
    assert type(result) is list and result[1].note == 'mine'
    assert all(own is sample for own, sample in zip(result, batch))
    assert 'pred_score_resnet' in batch[0]


@pytest.mark.parametrize('augment', [None, 'Mixup', 'CutMix'])
def test_steps_with_a_batch(augment):
    """From the data set to the weights it is as with a list."""
    settings = dict(
        train_cfg=augment and dict(augments=[dict(type=augment, alpha=1.)]),
        data_preprocessor=dict(mean=[10.] * 3, std=[20.] * 3, to_rgb=True))
    images = (20 * make_batch()[0]).clamp(0, 255).byte()
    states = []
    for as_batch in (True, False):
        cohort = make_cohort(**settings)
        cohort.kd_weight = 1.
        wrapper = OptimWrapper(
            torch.optim.SGD(cohort.parameters(), lr=.1, momentum=.9))
        torch.manual_seed(0)
        np.random.seed(0)
        for _ in range(3):
            samples = BatchDataSample(gt_label=make_fields()['gt_label'])
            inputs = images.contiguous(memory_format=torch.channels_last)
            if not as_batch:
                samples, inputs = list(samples), images
            logs = cohort.train_step(
                dict(inputs=inputs, data_samples=samples), wrapper)
            assert logs['loss'].isfinite()
        states.append(cohort.state_dict())
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key]), key


def test_a_classifier_alone_takes_it_for_a_list():
    """The toolbox's own classifier and preprocessor know no better."""
    cfg = copy.deepcopy(RESNET)
    cfg['head']['in_channels'] = 16
    dataset = DATASETS.build(
        dict(
            type='mcod_plugin.InMemoryDataset',
            source='mcod_plugin.Digits',
            indices=[0, 1, 2, 3],
            size=32,
            pipeline=[dict(type='PackInputs')]))
    labels = dataset.get_gt_labels() % 5
    results = []
    for as_batch in (True, False):
        torch.manual_seed(0)
        np.random.seed(0)
        alone = MMPRETRAIN_MODELS.build(
            dict(
                type='ImageClassifier',
                neck=dict(type='GlobalAveragePooling'),
                train_cfg=dict(augments=dict(type='Mixup', alpha=.5)),
                data_preprocessor=dict(
                    mean=[78.] * 3, std=[96.] * 3, num_classes=5),
                **copy.deepcopy(cfg)))
        assert type(alone.data_preprocessor).__name__ == 'ClsDataPreprocessor'
        batch = dataset.__getitems__(range(4))
        samples = BatchDataSample(gt_label=torch.from_numpy(labels))
        batch['data_samples'] = samples if as_batch else list(samples)
        wrapper = OptimWrapper(torch.optim.SGD(alone.parameters(), lr=.1))
        alone.train_step(batch, wrapper)
        alone.eval()
        predictions = alone.test_step(batch)
        assert len(predictions) == 4
        results.append(predictions[3].pred_score)
    assert torch.equal(*results)


# Prediction


@pytest.mark.parametrize('fusion', ['mean', 'prob_mean'])
def test_predict(fusion):
    cohort = make_cohort(
        teacher=dict(type='mcod_plugin.EnsembleTeacher',
                     fusion=fusion)).eval()
    inputs, _ = make_batch()
    predictions = cohort(inputs, mode='predict')
    assert len(predictions) == 4
    logits = {name: net(inputs) for name, net in cohort.branches.items()}
    if fusion == 'mean':
        expected = (sum(logits.values()) / 3).softmax(1)
    else:
        expected = sum(value.softmax(1) for value in logits.values()) / 3
    torch.testing.assert_close(cohort(inputs).softmax(1), expected)
    for index, sample in enumerate(predictions):
        torch.testing.assert_close(sample.pred_score, expected[index])
        assert sample.pred_label.tolist() == [expected[index].argmax()]
        for name, value in logits.items():
            score = sample.get(f'pred_score_{name}')
            torch.testing.assert_close(score, value.softmax(1)[index])
            assert score.sum().item() == pytest.approx(1, abs=1e-6)
            assert not score.requires_grad
        assert not sample.pred_score.requires_grad
        assert set(sample.to_dict()) == {
            'num_classes', 'pred_score', 'pred_label', 'pred_score_resnet',
            'pred_score_alexnet', 'pred_score_vit'
        }


def test_predict_fills_the_samples():
    cohort = make_cohort('resnet', 'vit').eval()
    inputs, samples = make_batch()
    given = [samples[0], None, *samples[2:]]
    predictions = cohort.predict(inputs, given)
    for index in (0, 2, 3):
        assert predictions[index] is samples[index]
        assert samples[index].gt_label.tolist() == [3 * index % 5]
    assert 'pred_score_vit' in predictions[1]
    # through the preprocessor, as the test loop does
    again = cohort.test_step(dict(inputs=list(inputs), data_samples=samples))
    torch.testing.assert_close(again[3].pred_score,
                               predictions[3].pred_score)


def test_predictions_are_apart():
    """To pickle one does not take the whole batch along."""
    cohort = make_cohort('resnet').eval()
    predictions = cohort(make_batch(2000)[0], mode='predict')
    assert len(pickle.dumps(predictions[0])) < 10_000


def test_mode():
    cohort = make_cohort().eval()
    inputs, _ = make_batch()
    assert torch.equal(cohort(inputs), cohort(inputs, mode='tensor'))
    assert cohort(inputs).shape == (4, 5)
    with pytest.raises(RuntimeError, match='Invalid mode "logits"'):
        cohort(inputs, mode='logits')


@pytest.mark.parametrize('stage', ['backbone', 'neck', 'pre_logits'])
def test_extract_feat(stage):
    cohort = make_cohort().eval()
    inputs, _ = make_batch()
    feats = cohort.extract_feat(inputs, stage)
    shapes = dict(resnet=(4, 16, 8, 8), alexnet=(4, 16, 1, 1), vit=(4, 5, 16))
    for name, branch in cohort.branches.items():
        own = branch.extract_feat(inputs, stage)
        last, expected = ((feats[name], own) if stage == 'pre_logits' else
                          (feats[name][-1], own[-1]))
        assert torch.equal(last, expected)
        assert last.shape == (
            shapes[name] if stage == 'backbone' else (4, 16))
    assert torch.equal(
        cohort.extract_feat(inputs)['resnet'][-1],
        cohort.branches['resnet'].extract_feat(inputs)[-1])


# Building


def test_config_stays_as_it_is():
    cfg = make_config(
        data_preprocessor=dict(mean=[0.] * 3, std=[1.] * 3),
        train_cfg=dict(augments=[dict(type='Mixup', alpha=1.)]),
        teacher=dict(type='mcod_plugin.EnsembleTeacher'))
    cfg['branches']['resnet']['input_size'] = 64
    given = copy.deepcopy(cfg)
    first = MODELS.build(cfg)
    assert cfg == given
    MODELS.build(cfg).load_state_dict(first.state_dict())


def test_one_dict_for_two_branches():
    cohort = MODELS.build(
        dict(
            type='mcod_plugin.MultiBackboneClassifier',
            branches=dict(a=RESNET, b=RESNET),
            input_size=32))
    a, b = cohort.branches.values()
    assert not {id(module) for module in a.modules()}.intersection(
        id(module) for module in b.modules())
    assert not {param.data_ptr() for param in a.parameters()}.intersection(
        param.data_ptr() for param in b.parameters())
    cohort.init_weights()
    assert not torch.equal(a.head.fc.weight, b.head.fc.weight)


def test_attributes():
    cohort = make_cohort('resnet', 'vit', input_size=None)
    assert list(cohort.branches) == ['resnet', 'vit']
    assert cohort.num_classes == 5 and cohort.kd_weight == 0
    assert cohort.input_size == (32, 32) and cohort.in_channels == 3
    assert type(cohort.teacher) is EnsembleTeacher
    assert type(cohort.distill) is DiscontinuousKDLoss
    assert make_cohort('resnet', input_size=(40, 48)).input_size == (40, 48)


def test_gray_images():
    branch = copy.deepcopy(ALEXNET)
    branch['backbone']['in_channels'] = 1
    cohort = make_cohort(
        branches=dict(net=branch),
        data_preprocessor=dict(mean=[128.], std=[64.]))
    assert cohort.in_channels == 1
    assert cohort(torch.rand(2, 1, 32, 32)).shape == (2, 5)


def test_input_size_of_a_branch():
    branch = copy.deepcopy(VIT)
    branch['backbone']['img_size'] = 48
    assert '32x32' in refusal(branches=dict(net=branch))
    make_cohort(branches=dict(net=dict(branch, input_size=48)))


def test_built_branch():
    net = make_cohort('resnet').branches['resnet']
    cohort = make_cohort(branches=dict(net=net, alexnet=ALEXNET))
    assert cohort.num_classes == 5
    assert cohort(make_batch()[0]).shape == (4, 5)


def loaded(path, **kwargs):
    """A classifier whose weights MMEngine knows nothing of."""
    model = dict(type='ImageClassifier', **copy.deepcopy(RESNET), **kwargs)
    model['neck'] = dict(type='GlobalAveragePooling')
    model['head']['in_channels'] = 16
    return get_model(Config(dict(model=model)), pretrained=path)


@pytest.mark.parametrize('frozen', [False, True])
@pytest.mark.parametrize('memory_format', ['auto', 'contiguous'])
def test_a_built_branch_keeps_its_weights(tmp_path, frozen, memory_format):
    source = make_cohort('resnet', seed=7).branches['resnet']
    for value in source.buffers():
        value += 1
    torch.save(source.state_dict(), tmp_path / 'net.pth')
    net = loaded(str(tmp_path / 'net.pth')).requires_grad_(not frozen)
    cohort = MODELS.build(
        dict(
            type='mcod_plugin.MultiBackboneClassifier',
            branches=dict(net=net, alexnet=ALEXNET),
            memory_format=memory_format,
            input_size=32))
    before = copy.deepcopy(cohort.branches['alexnet'])
    cohort.init_weights()
    assert cohort.frozen == ['net'] * frozen
    assert_same_weights(cohort.branches['net'], source)
    # those of a config are initialised
    assert not torch.equal(before.head.fc.weight,
                           cohort.branches['alexnet'].head.fc.weight)


def test_a_built_part_keeps_its_weights():
    source = make_cohort('resnet', seed=7).branches['resnet']
    branch = dict(backbone=copy.deepcopy(source.backbone), head=RESNET['head'])
    branch['backbone'].is_init = False
    cohort = make_cohort(branches=dict(net=branch, alexnet=ALEXNET))
    net = cohort.branches['net']
    assert_same_weights(net.backbone, source.backbone)
    assert not torch.equal(net.head.fc.weight, source.head.fc.weight)


def test_a_built_branch_does_not_load_again(tmp_path, caplog):
    """What its config names was loaded before, or was not wanted."""
    first, second = (
        make_cohort('resnet', seed=seed).branches['resnet']
        for seed in (7, 8))
    torch.save(first.state_dict(), tmp_path / 'first.pth')
    torch.save(second.state_dict(), tmp_path / 'second.pth')
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    init = dict(type='Pretrained', checkpoint=str(tmp_path / 'first.pth'))
    for initialised in (False, True):
        net = loaded(str(tmp_path / 'second.pth'), init_cfg=init)
        if initialised:
            net.init_weights()
            net.load_state_dict(second.state_dict())
        caplog.clear()
        cohort = make_cohort(branches=dict(net=net, alexnet=ALEXNET))
        assert_same_weights(cohort.branches['net'], second)
        told = [
            record.getMessage() for record in caplog.records
            if 'keeps the weights' in record.getMessage()
        ]
        assert len(told) == (not initialised)
        assert all(text.startswith('model.branches.net is') for text in told)


@pytest.mark.parametrize('name', [
    'a.b', '', 'a b', 'a/b', 'a\nb', 1, None, 'train', 'type', 'keys',
    'forward', 'init_cfg', 'ensemble', 'diversity', 'teacher', 'loss',
    'lossy_net'
])
def test_refused_name(name):
    message = refusal(branches={name: ALEXNET})
    assert 'model.branches' in message and repr(name) in message


@pytest.mark.parametrize('name', ['resnet-18', 'VGG_16', 'a', '18', 'Größe'])
def test_name(name):
    cohort = make_cohort(branches={name: ALEXNET})
    assert f'branches.{name}.head.fc.weight' in cohort.state_dict()
    assert f'{name}.loss_ce' in cohort(*make_batch(), mode='loss')


@pytest.mark.parametrize('branches', [{}, None, [ALEXNET], 'resnet'])
def test_no_branches(branches):
    assert refusal(branches=branches).startswith('model.branches must be')


def test_numbers_of_classes_differ():
    other = dict(ALEXNET, head=dict(ALEXNET['head'], num_classes=6))
    message = refusal(branches=dict(a=ALEXNET, b=other))
    assert message.startswith('model.branches')
    assert 'num_classes' in message and 'a 5, b 6' in message


@pytest.mark.parametrize('kwargs, setting', [
    (dict(teacher=dict(type='mcod_plugin.EnsembleTeacher', fusion='max')),
     'model.teacher.fusion'),
    (dict(distill=dict(type='mcod_plugin.DiscontinuousKDLoss',
                       temperature=0)), 'distill.temperature'),
    (dict(distill=dict(type='mcod_plugin.DiscontinuousKDLoss',
                       temperature=-1.)), 'distill.temperature'),
    (dict(input_size=0), 'model.input_size'),
    (dict(input_size='32'), 'model.input_size'),
    (dict(branches=dict(net='resnet')), 'model.branches.net'),
    (dict(branches=dict(net=nn.Linear(2, 3))), 'model.branches.net'),
    (dict(branches=dict(net=dict(head=ALEXNET['head']))),
     'model.branches.net.backbone'),
])
def test_refused_setting(kwargs, setting):
    assert refusal(**kwargs).startswith(setting)


# State


LOADERS = [nn.Module.load_state_dict, load_like_runner]


def fault_missing(state_dict):
    del state_dict['branches.resnet.head.fc.weight']
    return 'lacks branches.resnet (1 keys such as resnet.head.fc.weight)'


def fault_extra(state_dict):
    state_dict['branches.alexnet.head.scale'] = torch.ones(1)
    return 'adds branches.alexnet'


def fault_renamed(state_dict):
    for key in [key for key in state_dict if '.alexnet.' in key]:
        state_dict[key.replace('alexnet', 'anet')] = state_dict.pop(key)
    return 'lacks branches.alexnet adds branches.anet'


def fault_shape(state_dict):
    state_dict['branches.vit.head.fc.bias'] = torch.zeros(6)
    return 'branches.vit.head.fc.bias (6,) (5,)'


def fault_no_tensor(state_dict):
    state_dict['branches.vit.head.fc.bias'] = [0.] * 5
    return 'branches.vit.head.fc.bias'


def fault_plain_classifier(state_dict):
    prefix = 'branches.resnet.'
    for key in list(state_dict):
        value = state_dict.pop(key)
        if key.startswith(prefix):
            state_dict[key[len(prefix):]] = value
    return 'lacks branches.resnet branches.vit adds backbone head'


def fault_all(state_dict):
    state_dict.clear()
    return 'lacks'


FAULTS = [
    fault_missing, fault_extra, fault_renamed, fault_shape, fault_no_tensor,
    fault_plain_classifier, fault_all
]


@pytest.mark.parametrize('load', LOADERS)
def test_load(load):
    cohort, other = make_cohort(seed=1), make_cohort(seed=2)
    load(other, cohort.state_dict())
    assert_same_weights(other, cohort)


@pytest.mark.parametrize('load', LOADERS)
@pytest.mark.parametrize('fault', FAULTS)
def test_load_is_strict(load, fault):
    cohort = make_cohort(seed=1)
    before = copy.deepcopy(cohort)
    state_dict = make_cohort(seed=2).state_dict()
    words = fault(state_dict)
    with pytest.raises(ConfigError) as info:
        load(cohort, state_dict, strict=False)
    message = str(info.value)
    assert '\n' not in message
    assert 'resnet, alexnet, vit' in message
    for word in words.split():
        assert word in message
    # nothing was loaded by halves
    assert_same_weights(cohort, before)


@pytest.mark.parametrize('load', LOADERS)
def test_load_in_a_wrapper(load):
    average = ExponentialMovingAverage(make_cohort(seed=1))
    source = ExponentialMovingAverage(make_cohort(seed=2))
    load(average, source.state_dict())
    assert_same_weights(average, source)
    state_dict = source.state_dict()
    for key in [key for key in state_dict if '.alexnet.' in key]:
        state_dict[key.replace('alexnet', 'anet')] = state_dict.pop(key)
    with pytest.raises(ConfigError, match='lacks branches.alexnet'):
        load(average, state_dict)


@pytest.mark.parametrize('load', LOADERS)
def test_deepcopy(load):
    cohort = make_cohort(seed=1)
    copied = copy.deepcopy(cohort)
    assert_same_weights(copied, cohort)
    other = make_cohort(seed=2)
    load(copied, other.state_dict())
    assert_same_weights(copied, other)
    assert_same_weights(cohort, make_cohort(seed=1))
    # each is compared with itself
    copied.branches['resnet'].head = nn.Linear(3, 4)
    load(copied, copied.state_dict())
    with pytest.raises(ConfigError):
        load(copied, other.state_dict())
    with pytest.raises(ConfigError):
        load(cohort, copied.state_dict())
    load(cohort, other.state_dict())


def test_keys_are_those_of_the_branches():
    cohort = make_cohort()
    expected = [
        f'branches.{name}.{key}' for name, branch in cohort.branches.items()
        for key in branch.state_dict()
    ]
    assert list(cohort.state_dict()) == expected


# Initialisation


def test_init_weights_reaches_every_branch():
    cohort = MODELS.build(make_config())
    for param in cohort.parameters():
        nn.init.constant_(param, 7.)
    cohort.init_weights()
    for name in ('resnet', 'alexnet'):
        for key, param in cohort.branches[name].named_parameters():
            assert not (param == 7).any(), f'{name}.{key}'
    assert not (cohort.branches['vit'].head.fc.weight == 7).any()


def test_init_weights_depends_on_the_seed():
    weights = [
        make_cohort(seed=seed).branches['alexnet'].head.fc.weight
        for seed in (0, 0, 1)
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_pretrained_backbone(tmp_path):
    """A backbone out of a classifier's checkpoint, in one branch of two."""
    source = make_cohort('resnet', seed=1).branches['resnet']
    torch.save(
        dict(state_dict=source.state_dict()), tmp_path / 'classifier.pth')
    branch = copy.deepcopy(RESNET)
    branch['backbone']['init_cfg'] = dict(
        type='Pretrained',
        checkpoint=str(tmp_path / 'classifier.pth'),
        prefix='backbone.')
    cohort = make_cohort(branches=dict(a=branch, b=RESNET), seed=2)
    assert_same_weights(cohort.branches['a'].backbone, source.backbone)
    a, b = cohort.branches.values()
    assert not torch.equal(a.head.fc.weight, source.head.fc.weight)
    assert not torch.equal(
        next(b.backbone.parameters()), next(source.backbone.parameters()))


def test_only_the_branches_in_the_middle_have_other_targets():
    """The members follow each other, the branches around follow both."""
    cohort = make_cohort(
        branches=dict(a=RESNET, b=ALEXNET, c=VIT, d=RESNET),
        teacher=dict(
            type='mcod_plugin.EnsembleTeacher',
            members=['b', 'c'],
            leave_one_out=True)).double()
    cohort.kd_weight = 1.
    inputs, samples = make_batch()
    losses = cohort(inputs.double(), samples, mode='loss')
    z = cohort.branch_logits(inputs.double())
    both = (z['b'] + z['c']) / 2
    for name, target in dict(a=both, b=z['c'], c=z['b'], d=both).items():
        assert losses[f'{name}.loss_kd'].item() == pytest.approx(
            kl_by_loop(z[name], target, 3.), rel=1e-9)


@pytest.mark.parametrize('context', [torch.no_grad, torch.inference_mode])
def test_no_graph_is_kept_without_gradients(context):
    cohort = make_cohort(
        branches=dict(net=RESNET, fixed=dict(ALEXNET, frozen=True)))
    inputs, samples = make_batch()
    with context():
        logits = cohort.branch_logits(inputs)
        losses = cohort(inputs, samples, mode='loss')
    for value in (*logits.values(), *losses.values()):
        assert not value.requires_grad
