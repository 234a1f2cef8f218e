"""Cohorts for images of several labels, heads with margins and plain
networks."""
import copy
import pickle

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmpretrain.models.heads import ArcFaceClsHead
from mmpretrain.structures import DataSample

from mcod_plugin.errors import ConfigError
from mcod_plugin.models import MultiBackboneClassifier
from mcod_plugin.models.heads import BaseTeacher
from mcod_plugin.models.losses import BaseKDLoss
from mcod_plugin.registry import MODELS
from mcod_plugin.structures import BatchDataSample

NET = dict(type='mcod_plugin.CifarResNet', depth=8, width=4)
# The labels of six images, of five classes.
LABELS = [[], [2], [0, 4], [1], [0, 1, 2, 3, 4], [3, 2]]
MULTI_HOT = torch.tensor([[float(c in labels) for c in range(5)]
                          for labels in LABELS])
ONE = torch.tensor([2, 0, 1, 4, 4, 3])


def branch(head='LinearClsHead', **kwargs):
    return dict(
        backbone=dict(NET), head=dict(type=head, num_classes=5, **kwargs))


def several(**kwargs):
    return branch('MultiLabelLinearClsHead', **kwargs)


CSRA = dict(
    backbone=dict(NET),
    head=dict(type='CSRAClsHead', num_classes=5, num_heads=2, lam=.2))


def plain(classes=5):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes))


def cohort(branches, init=True, size=16, **kwargs):
    torch.manual_seed(0)
    model = MODELS.build(
        dict(
            type='mcod_plugin.MultiBackboneClassifier',
            branches=branches,
            input_size=size,
            **kwargs))
    if init:
        model.init_weights()
    return model


def images():
    return torch.randn(
        6, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def samples():
    return [DataSample().set_gt_label(labels) for labels in LABELS]


def refusal(branches, **kwargs):
    with pytest.raises(ConfigError) as caught:
        cohort(branches, init=False, **kwargs)
    assert '\n' not in str(caught.value)
    return str(caught.value)


# Several labels


def test_losses_of_several_labels():
    model = cohort(dict(a=several(), b=copy.deepcopy(CSRA), c=plain()))
    assert model.multi_label
    model.kd_weight = .5
    model.double().eval()
    inputs = images().double()
    losses = model.loss(inputs, samples())
    logits = {name: net(inputs) for name, net in model.branches.items()}
    target = (sum(logits.values()) / 3).detach() / 3
    p = target.sigmoid()
    for name, z in logits.items():
        q = (z / 3).sigmoid()
        own = -(MULTI_HOT * z.sigmoid().log() + (1 - MULTI_HOT) *
                (-z).sigmoid().log()).sum(1).mean()
        kd = (p * (p / q).log() + (1 - p) * ((1 - p) /
                                             (1 - q)).log()).sum(1).mean()
        # MMPretrain's loss is one in float32.
        torch.testing.assert_close(
            losses[f'{name}.loss_ce'].double(), own, rtol=1e-6, atol=0)
        torch.testing.assert_close(losses[f'{name}.loss_kd'], .5 * 9 * kd)
    # However the labels come.
    for other in (MULTI_HOT, MULTI_HOT.long(),
                  BatchDataSample(gt_score=MULTI_HOT),
                  [DataSample().set_gt_score(score) for score in MULTI_HOT]):
        again = model.loss(inputs, other)
        for key, value in losses.items():
            torch.testing.assert_close(again[key], value)


def test_predictions_of_several_labels():
    model = cohort(dict(a=several(), b=copy.deepcopy(CSRA))).eval()
    inputs = images()
    given = samples()
    for predicted in (model.predict(inputs), model.predict(inputs, given),
                      model.predict(inputs, BatchDataSample(gt_label=ONE))):
        assert isinstance(predicted, list) and len(predicted) == 6
        logits = {name: net(inputs) for name, net in model.branches.items()}
        logits[''] = sum(logits.values()) / 2
        for name, value in logits.items():
            name = name and f'_{name}'
            for i, sample in enumerate(predicted):
                score = sample.get(f'pred_score{name}')
                torch.testing.assert_close(score, value[i].sigmoid())
                assert sample.get(f'pred_label{name}').tolist() == [
                    c for c in range(5) if value[i, c] >= 0
                ]
    assert [sample.gt_label.tolist() for sample in given] == LABELS
    # One rule is that of the heads.
    model = cohort(dict(a=several(topk=2), b=several(topk=2))).eval()
    for sample in model.predict(inputs):
        assert sample.pred_label.tolist() == sample.pred_score.topk(
            2).indices.tolist()


def test_it_learns_several_labels():
    model = cohort(dict(a=several(), b=plain()))
    model.kd_weight = 1.
    model.check_distillation()
    optimizer = torch.optim.SGD(model.parameters(), lr=.05)
    totals = []
    for _ in range(5):
        total, _ = model.parse_losses(model.loss(images(), MULTI_HOT))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < totals[0]


def test_plain_networks_of_several_labels():
    model = cohort(dict(a=plain(), b=plain()), multi_label=True).eval()
    inputs = images()
    losses = model.loss(inputs, MULTI_HOT)
    torch.testing.assert_close(
        losses['a.loss_ce'],
        F.binary_cross_entropy_with_logits(
            model.branches['a'](inputs), MULTI_HOT, reduction='sum') / 6)
    assert model.predict(inputs)[0].pred_label.ndim == 1


@pytest.mark.parametrize('parts', [
    dict(
        teacher=dict(type='mcod_plugin.PeerTeacher'),
        distill=dict(type='mcod_plugin.MutualKDLoss')),
    dict(distill=dict(type='mcod_plugin.BalancedKDLoss')),
    dict(distill=dict(type='mcod_plugin.FeatureKDLoss')),
    dict(teacher=dict(type='mcod_plugin.EnsembleTeacher', ema=.9)),
    dict(
        teacher=dict(
            type='mcod_plugin.EnsembleTeacher',
            members='a',
            leave_one_out=False)),
    dict(distill=None),
])
def test_parts_for_several_labels(parts):
    model = cohort(dict(a=several(), b=several()), **parts)
    model.check_distillation()
    model.kd_weight = model.ratio_due = 1.
    losses = model.loss(images(), samples())
    assert all(value.isfinite().all() for value in losses.values())
    assert ('b.loss_kd' in losses) is (model.distill is not None)


def test_balanced_loss_is_told():
    model = cohort(
        dict(a=several(), b=several()),
        distill=dict(type='mcod_plugin.BalancedKDLoss'))
    assert model.distill.loss.multi_label


@pytest.mark.parametrize('branches, settings, words', [
    (dict(a=several(), b=branch()), {},
     'b (LinearClsHead) for one and a (MultiLabelLinearClsHead) for several'),
    (dict(a=several(), b=branch('ArcFaceClsHead')), {}, 'b (ArcFaceClsHead)'),
    (dict(a=several(),
          b=plain()), dict(multi_label=False), 'model.multi_label is False'),
    (dict(a=branch(),
          b=plain()), dict(multi_label=True), 'model.multi_label is True'),
    (dict(a=plain()), dict(multi_label='yes'), "None, True, False; got 'yes'"),
    (dict(a=several(thr=.3), b=several()), {}, 'a thr=0.3, topk=None'),
] + [(dict(a=several(), b=several()), {
    key: dict(part, type=f'mcod_plugin.{part["type"]}')
}, words) for key, part, words in [
    ('teacher', dict(type='EnsembleTeacher', fusion='prob_mean'),
     "model.teacher.fusion must be 'mean'"),
    ('teacher', dict(type='EnsembleTeacher', fusion='min_logit'),
     "model.teacher.fusion must be 'mean'"),
    ('teacher', dict(type='EnsembleTeacher', fusion='confidence'),
     "model.teacher.fusion must be 'mean'"),
    ('teacher', dict(type='GatedTeacher'),
     'model.teacher.type GatedTeacher is not for images of several labels'),
    ('distill', dict(type='DKDLoss'), 'model.distill.type DKDLoss'),
    ('distill', dict(type='DISTLoss'), 'model.distill.type DISTLoss'),
    ('distill', dict(type='DiscontinuousKDLoss', where='correct'),
     "model.distill.where must be 'all'"),
    ('distill', dict(type='DiscontinuousKDLoss', standardize=True),
     'model.distill.standardize must be False'),
    ('distill',
     dict(type='BalancedKDLoss', loss=dict(type='mcod_plugin.DKDLoss')),
     'BalancedKDLoss'),
    ('distill',
     dict(
         type='BalancedKDLoss',
         loss=dict(type='mcod_plugin.DiscontinuousKDLoss', where='surer')),
     "model.distill.where must be 'all'"),
]])
def test_mixtures_that_make_no_sense(branches, settings, words):
    assert words in refusal(branches, **settings)


def test_parts_of_a_user():
    """They say what they are for."""

    class Mean(BaseTeacher):

        def ensemble(self, logits):
            return sum(logits.values()) / len(logits)

        def forward(self, logits):
            return dict.fromkeys(logits, self.ensemble(logits).detach())

    class Square(BaseKDLoss):

        def forward(self, logits, targets):
            assert self.multi_label
            return (logits - targets).square().mean((1, 2))

    branches = dict(a=several(), b=several())
    assert 'takes_multi_label = True' in refusal(branches, teacher=Mean())
    assert 'takes_multi_label = True' in refusal(branches, distill=Square())
    Square.takes_multi_label = True
    model = cohort(branches, distill=Square())
    model.kd_weight = 1.
    assert model.loss(images(), samples())['a.loss_kd'] > 0


# Heads with margins


@MODELS.register_module()
class SquareOfFeatures(nn.Linear):
    """A user's head without any base class of MMPretrain's."""

    def __init__(self, num_classes, in_channels):
        super().__init__(in_channels, num_classes)

    def forward(self, feats):
        return super().forward(feats[-1])

    def loss(self, feats, data_samples):
        return dict(loss=feats[-1].square().mean() +
                    self(feats).square().mean())


def test_head_with_margin():
    model = cohort(dict(a=branch('ArcFaceClsHead', scale=8.), b=branch()))
    model.double().eval()
    model.kd_weight = model.ratio_due = 1.
    inputs = images().double()
    losses = model.loss(inputs, ONE)
    net = model.branches['a']
    feats = net.extract_feat(inputs)
    # The formula of ArcFace, written anew.
    cosine = F.normalize(feats[-1]) @ F.normalize(
        net.head.norm_product.weight).T
    rows = torch.arange(6)
    angle = cosine[rows, ONE].arccos()
    assert (angle < torch.pi - .5).all()
    moved = cosine.clone()
    moved[rows, ONE] = (angle + .5).cos()
    own = F.cross_entropy(8 * moved, ONE)
    torch.testing.assert_close(losses['a.loss_ce'], own)
    # The others see, and the branch is taught, logits without a margin.
    logits = dict(a=8 * cosine, b=model.branches['b'](inputs))
    target = (logits['a'] + logits['b']).detach() / 2
    for name, value in logits.items():
        kd = 9 * F.kl_div(
            (value / 3).log_softmax(1), (target / 3).softmax(1),
            reduction='batchmean')
        torch.testing.assert_close(losses[f'{name}.loss_kd'], kd)
    # The gradients of both reach the branch.
    total = losses['a.loss_ce'] + losses['a.loss_kd']
    weight = net.head.norm_product.weight
    found = torch.autograd.grad(total, weight, retain_graph=True)[0]
    kd = 9 * F.kl_div(
        (logits['a'] / 3).log_softmax(1), (target / 3).softmax(1),
        reduction='batchmean')
    torch.testing.assert_close(found, torch.autograd.grad(own + kd, weight)[0])
    # It has no gradient of its own loss at the logits to be compared with.
    assert 'b.kd_ratio' in losses and 'a.kd_ratio' not in losses
    torch.testing.assert_close(
        model.predict(inputs)[2].pred_score_a, logits['a'][2].softmax(0))


@pytest.mark.parametrize('recompute', [False, True])
def test_head_of_a_user(recompute):
    """Its own loss is that of MMPretrain's classifier alone."""
    model = cohort(
        dict(
            a=branch('mcod_plugin.SquareOfFeatures'),
            b=branch('ArcFaceClsHead')),
        recompute=recompute)
    model.check_distillation()
    alone = copy.deepcopy(model.branches)
    model.kd_weight = 0.
    labelled = [DataSample().set_gt_label(label) for label in ONE]
    losses = model.loss(images(), labelled)
    sum(value for key, value in losses.items() if 'loss' in key).backward()
    for name, net in alone.items():
        expected = net.loss(images(), labelled)['loss']
        torch.testing.assert_close(losses[f'{name}.loss_ce'], expected)
        expected.backward()
        for one, other in zip(net.parameters(),
                              model.branches[name].parameters()):
            torch.testing.assert_close(other.grad, one.grad)


def test_margins_that_make_no_sense():
    branches = dict(a=branch('ArcFaceClsHead'), b=branch())
    line = refusal(
        branches, train_cfg=dict(augments=dict(type='Mixup', alpha=.2)))
    assert 'must not mix images (Mixup)' in line and 'ArcFaceClsHead' in line
    line = refusal(branches, distill=dict(type='mcod_plugin.BalancedKDLoss'))
    assert 'BalancedKDLoss needs gradients' in line
    with pytest.raises(ValueError, match=r'ArcFaceClsHead .* labels \(N, \)'):
        cohort(branches).loss(images(), F.one_hot(ONE, 5).float())


def test_accuracy_of_mixed_images():
    """MMPretrain's heads refuse it in their first step."""
    branches = dict(a=branch(), b=branch(cal_acc=True))
    line = refusal(
        branches, train_cfg=dict(augments=dict(type='CutMix', alpha=1.)))
    assert 'must not mix images (CutMix)' in line
    assert 'model.branches.b.head.cal_acc=True' in line
    cohort(branches)


# Plain PyTorch


def test_plain_networks():
    nets = dict(a=plain(), b=plain())
    before = copy.deepcopy(nets['a'].state_dict())
    model = MultiBackboneClassifier(branches=nets, input_size=16)
    model.init_weights()
    assert model.branches['a'] is nets['a'] and not model.multi_label
    state = model.state_dict()
    for key, value in before.items():
        assert torch.equal(state[f'branches.a.{key}'], value)
    model.kd_weight = 1.
    model.eval()
    inputs = images()
    losses = model.loss(inputs, ONE)
    for name, net in nets.items():
        torch.testing.assert_close(losses[f'{name}.loss_ce'],
                                   F.cross_entropy(net(inputs), ONE))
        assert losses[f'{name}.loss_kd'] > 0
    mixed = torch.rand(6, 5).softmax(1)
    losses = model.loss(inputs, mixed)
    torch.testing.assert_close(
        losses['a.loss_ce'],
        -(mixed * nets['a'](inputs).log_softmax(1)).sum(1).mean())
    assert model(inputs).shape == (6, 5)
    assert model.predict(inputs)[0].pred_score_b.sum().item() == (
        pytest.approx(1))


class Writing(nn.Module):
    """A plain network that changes its images in place."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, images):
        return self.net(images.sub_(.5).div_(.25))


@pytest.mark.parametrize('frozen', [False, True])
def test_a_network_that_writes_into_its_images(frozen):
    """The others do not see it, nor does who has given the images."""
    nets = dict(a=Writing(plain()), b=plain(), c=plain())
    if frozen:
        nets['a'].requires_grad_(False)
    model = MultiBackboneClassifier(
        branches=nets,
        input_size=16,
        teacher=dict(type='mcod_plugin.EnsembleTeacher', ema=.9))
    model.eval()
    given, whole = images(), images()
    found = model.branch_logits(given)
    assert torch.equal(given, whole)
    for name, net in nets.items():
        assert torch.equal(found[name], net(whole.clone())), name
    # The averages are the branches as they are.
    model.kd_weight = 1.
    losses = model.loss(given, ONE)
    target = sum(found.values()) / 3
    kd = F.kl_div((found['b'] / 3).log_softmax(1), (target / 3).softmax(1),
                  reduction='batchmean') * 9
    torch.testing.assert_close(losses['b.loss_kd'], kd)
    with pytest.raises(ConfigError, match='changes its images in place'):
        MultiBackboneClassifier(
            branches=dict(a=dict(type=Writing, net=plain())),
            input_size=16,
            recompute=True)


class Auxiliary(nn.Module):
    """A plain network that gives more while it is trained."""

    def __init__(self):
        super().__init__()
        self.net = plain()

    def forward(self, images):
        logits = self.net(images)
        return (logits, logits) if self.training else logits


def test_a_network_that_gives_more_in_training():
    model = cohort(dict(a=Auxiliary(), b=plain()))
    with pytest.raises(ConfigError, match='branches.a must give logits .* '
                       'while it is trained; got tuple'):
        model.loss(images(), ONE)
    # One that only teaches is never trained.
    model = cohort(dict(a=Auxiliary().requires_grad_(False), b=plain()))
    assert model.loss(images(), ONE)['b.loss_ce'] > 0


@pytest.mark.parametrize('context', [torch.no_grad, torch.inference_mode])
def test_built_without_gradients(context):
    with context():
        assert cohort(dict(a=plain())).eval()(images()).shape == (6, 5)


def test_a_cohort_is_pickled():
    model = cohort(dict(a=branch(), b=plain())).eval()
    again = pickle.loads(pickle.dumps(model)).eval()
    assert again.memory_formats == model.memory_formats
    assert torch.equal(again(images()), model(images()))


def test_a_plain_network_tells_no_features():
    model = cohort(dict(a=branch(), b=plain()))
    with pytest.raises(ConfigError, match='branches.b .* no extract_feat'):
        model.extract_feat(images())


def test_labels_of_any_kind_are_the_same():
    model = cohort(dict(a=branch(), b=plain())).eval()
    wanted = model.loss(images(), ONE)
    for labels in (ONE.int(), ONE.to(torch.uint8), F.one_hot(ONE, 5),
                   F.one_hot(ONE, 5).bool(), BatchDataSample(gt_label=ONE),
                   [DataSample().set_gt_label(label) for label in ONE]):
        for key, value in model.loss(images(), labels).items():
            torch.testing.assert_close(value, wanted[key])


def test_batches_of_tensors():
    """What a data loader of PyTorch gives is mixed, trained and predicted."""
    model = cohort(
        dict(a=plain(), b=plain()),
        train_cfg=dict(augments=dict(type='Mixup', alpha=1.)))
    data = dict(inputs=images(), data_samples=ONE)
    prepared = model.data_preprocessor(data, training=True)
    scores = prepared['data_samples'].fields['gt_score']
    torch.testing.assert_close(scores.sum(1), torch.ones(6))
    assert (scores.amax(1) < 1).any()
    optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), lr=.1))
    assert model.train_step(data, optimizer)['loss'].isfinite()
    predicted = model.eval().val_step(data)
    assert predicted.fields['gt_label'].equal(ONE)
    assert predicted.fields['pred_score_b'].shape == (6, 5)


@pytest.mark.parametrize('labels', [
    ONE.float(),
    ONE > 2,
    ONE[None, None],
    torch.tensor(3),
])
def test_bad_labels(labels):
    with pytest.raises(ValueError, match=r'labels must be integers \(N, \)'):
        cohort(dict(a=plain())).loss(images(), labels)


class WithLoss(nn.Module):
    """A plain network with a loss, and with what timm's have, too."""

    def __init__(self):
        super().__init__()
        self.net = plain()
        self.head = self.net[-1]

    def init_weights(self):
        raise AssertionError

    def forward(self, inputs):
        return self.net(inputs)

    def _get_loss(self, logits, data_samples):
        return dict(loss=logits.square().mean(), share=logits.new_ones(()))


MODELS.register_module()(WithLoss)


@pytest.mark.parametrize('given', [dict(type='mcod_plugin.WithLoss'), None])
def test_own_loss_of_a_plain_network(given):
    model = cohort(dict(a=given or WithLoss(), b=plain()))
    losses = model.eval().loss(images(), ONE)
    torch.testing.assert_close(losses['a.loss_ce'],
                               model.branches['a'](images()).square().mean())
    assert losses['a.share'] == 1


class WithLosses(WithLoss):
    """A list of losses, as MMEngine takes it."""

    def _get_loss(self, logits, data_samples):
        return dict(loss=[logits.square().mean(), logits.square().mean(1)])


@pytest.mark.parametrize('drops', [False, True])
def test_several_losses_of_a_plain_network(drops):
    model = cohort(dict(a=WithLosses(), b=plain()), loss_weight=3.)
    if drops:
        model.leave_out_diverged()
    losses = model.eval().loss(images(), ONE)
    torch.testing.assert_close(
        losses['a.loss_ce'],
        6 * model.branches['a'](images()).square().mean())


def test_network_of_torchvision():
    model = cohort(
        dict(
            a=dict(
                type='torchvision.models.squeezenet1_1',
                num_classes=5,
                lr_mult=.5),
            b=branch(),
            c=dict(type='mcod_plugin.WithLoss', frozen=True)),
        size=64)
    assert type(model.branches['a']).__name__ == 'SqueezeNet'
    assert model.branch_settings['a'].lr_mult == .5 and model.frozen == ['c']
    model.kd_weight = 1.
    assert model.loss(torch.randn(2, 3, 64, 64), ONE[:2])['a.loss_kd'] > 0


class Odd(BaseModel):

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return inputs.mean((2, 3))


@pytest.mark.parametrize('network, words', [
    (nn.Conv2d(3, 5, 1), '(Conv2d) must give logits (N, num_classes); got (2'),
    (nn.Flatten(0), '(Flatten) must give logits'),
    (nn.Linear(7, 5), '(Linear) fails on a dummy image'),
    (Odd(), 'must be an image classifier of MMPretrain, or a plain network'),
])
def test_networks_that_give_no_logits(network, words):
    line = refusal(dict(a=network, b=plain()))
    assert line.startswith('model.branches.a') and words in line


def test_features_of_a_plain_network():
    line = refusal(
        dict(a=plain(), b=branch()),
        distill=dict(type='mcod_plugin.FeatureKDLoss'))
    assert 'got a, a Sequential' in line


def test_margin_head_alone_is_as_it_was():
    """The class that heads with margins are told by."""
    from mcod_plugin.models.utils.branch_loss import (has_margin,
                                                      learns_from_features)
    model = cohort(
        dict(
            a=branch('ArcFaceClsHead'),
            b=branch(),
            c=branch('mcod_plugin.SquareOfFeatures'),
            d=plain()))
    assert isinstance(model.branches['a'].head, ArcFaceClsHead)
    assert [has_margin(net)
            for net in model.branches.values()] == [True, False, False, False]
    assert [learns_from_features(net)
            for net in model.branches.values()] == [True, False, True, False]
