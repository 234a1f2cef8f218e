import math

import pytest
import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from mmpretrain.models.heads import LinearClsHead

from mcod_plugin.models.utils.branch_loss import (branch_loss, gradient_ratio,
                                                  logit_gradients, loss_owner,
                                                  soft_labels, total_loss)
from mcod_plugin.models.utils.build_branch import build_branch
from mcod_plugin.registry import MODELS
from mcod_plugin.structures import BatchDataSample

LABELS = torch.tensor([3, 1, 4, 1, 0, 2])


@MODELS.register_module()
class SquaredHead(LinearClsHead):
    """Computes its loss in its own way, from the samples."""

    def _get_loss(self, cls_score, data_samples, **kwargs):
        target = torch.cat([sample.gt_label for sample in data_samples])
        return dict(
            loss=(cls_score.argmax(1) - target).square().sum() +
            cls_score.square().mean())


def head(type='LinearClsHead', **kwargs):
    return dict(type=type, num_classes=5, **kwargs)


def loss(type, **kwargs):
    return head(loss=dict(type=type, **kwargs))


HEADS = dict(
    plain=head(),
    weighted=loss(
        'CrossEntropyLoss', loss_weight=.7, class_weight=[1., 2, 3, 4, 5]),
    soft=loss('CrossEntropyLoss', use_soft=True),
    smooth=loss('LabelSmoothLoss', label_smooth_val=.2, mode='original'),
    smooth_classes=loss(
        'LabelSmoothLoss',
        label_smooth_val=.1,
        mode='classy_vision',
        num_classes=5),
    focal=loss('FocalLoss', gamma=2.),
    asymmetric=loss('AsymmetricLoss'),
    stacked=dict(type='StackedLinearClsHead', num_classes=5, mid_channels=[7]),
    own=head('mcod_plugin.SquaredHead'))
# Some losses take scores only.
CASES = [
    (name, target) for name in HEADS
    for target in ('labels', 'scores', 'scores_only')
    if (name, target) != ('own', 'scores_only')
    and not (name in ('soft', 'focal', 'asymmetric') and target == 'labels')
]


def make_branch(head=HEADS['plain']):
    backbone = dict(type='mcod_plugin.CifarAlexNet', width=4)
    return build_branch('net', dict(backbone=backbone, head=head), (32, 32),
                        3)[0]


def make_logits():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(len(LABELS), 5, generator=generator)


def make_scores():
    generator = torch.Generator().manual_seed(1)
    return torch.rand(len(LABELS), 5, generator=generator).softmax(1)


def losses_and_gradients(branch, samples):
    logits = make_logits().requires_grad_()
    losses = branch_loss(branch, logits, samples)
    gradient, = torch.autograd.grad(losses['loss'], logits)
    return dict(losses, gradient=gradient)


def check(branch, fields, touched):
    """Those of a batch are those of the list, bit for bit."""
    batch = BatchDataSample(**fields)
    found = losses_and_gradients(branch, batch)
    assert batch.touched is touched
    samples = list(BatchDataSample(**fields))
    expected = losses_and_gradients(branch, samples)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        # Of accuracies there is a list.
        assert torch.equal(
            torch.as_tensor(found[key]), torch.as_tensor(value)), key
    return found


@pytest.mark.parametrize('name, target', CASES)
def test_heads(name, target):
    fields = {}
    if target != 'scores_only':
        fields['gt_label'] = LABELS
    if target != 'labels':
        fields['gt_score'] = make_scores()
    check(make_branch(HEADS[name]), fields, touched=name == 'own')


def test_one_hot_scores():
    """Such as the preprocessor makes them, which are integers."""
    scores = torch.nn.functional.one_hot(LABELS, 5)
    check(
        make_branch(HEADS['soft']), dict(gt_label=LABELS, gt_score=scores),
        False)


def test_accuracy_of_a_head():
    branch = make_branch(head(cal_acc=True, topk=(1, 2)))
    losses = check(branch, dict(gt_label=LABELS), touched=True)
    assert {'accuracy_top-1', 'accuracy_top-2'} < set(losses)


def test_classifier_without_head():
    branch, _ = build_branch(
        'net',
        dict(type='TimmClassifier', model_name='test_resnet', num_classes=5),
        (32, 32), 3)
    assert loss_owner(branch) is branch
    check(branch, dict(gt_label=LABELS), touched=True)
    check(branch, dict(gt_label=LABELS, gt_score=make_scores()), touched=True)


def test_changes_of_the_samples_count():
    branch = make_branch()
    batch = BatchDataSample(gt_label=LABELS)
    batch[0].set_gt_label(2)
    found = losses_and_gradients(branch, batch)
    labels = LABELS.clone()
    labels[0] = 2
    expected = losses_and_gradients(branch, BatchDataSample(gt_label=labels))
    for key, value in expected.items():
        assert torch.equal(found[key], value)


def test_owner():
    branch = make_branch()
    assert loss_owner(branch) is branch.head


def test_total_loss():
    """As MMEngine adds them: means, lists too, and not what is logged."""
    losses = dict(
        loss=torch.tensor([1., 3.]),
        aux_loss=[torch.tensor(10.), torch.tensor([20., 40.])],
        accuracy=torch.tensor(7.))
    assert total_loss(losses) == 2 + 10 + 30
    expected, _ = BaseModel.parse_losses(None, losses)
    assert total_loss(losses) == expected


def test_gradients_by_hand():
    """Of a cross entropy, of a square, and of what sees no logits; whatever
    lies before the logits is neither reached nor used up."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 5).double()
    logits = [layer(torch.randn(4, 3).double()) for _ in range(3)]
    labels = torch.tensor([0, 4, 2, 2])
    constant = torch.ones((), requires_grad=True)
    losses = [
        F.cross_entropy(logits[0], labels), 3 * logits[1].square().sum(),
        2 * constant
    ]
    found = logit_gradients(losses, logits)
    expected = [(logits[0].softmax(1) - F.one_hot(labels, 5)) / 4,
                6 * logits[1],
                torch.zeros(4, 5).double()]
    torch.testing.assert_close(found, torch.stack(expected).detach())
    assert not found.requires_grad
    assert layer.weight.grad is None and constant.grad is None
    sum(losses).backward()
    assert layer.weight.grad.any() and constant.grad == 2


def test_ratio_by_hand():
    own = torch.zeros(4, 1, 2).double()
    own[0] = own[1] = torch.tensor([3., 4.]).double()
    kd = torch.zeros(4, 1, 2).double()
    kd[0] = kd[2] = torch.tensor([0., .5]).double()
    # one that pulls, one that does not, one alone, and nothing
    assert gradient_ratio(kd, own).tolist() == [.1, 0., math.inf, 0.]


def test_gradients_of_what_has_none():
    logits = torch.ones(4, 5, requires_grad=True) * 1
    fixed = torch.ones(4, 5)
    nothing = torch.zeros(2, 4, 5)
    constant = torch.tensor(3.)
    assert torch.equal(
        logit_gradients([constant] * 2, [logits, fixed]), nothing)
    assert torch.equal(logit_gradients([constant], [fixed]), nothing[:1])
    found = logit_gradients([logits.sum(), constant], [logits, fixed])
    assert torch.equal(found, torch.stack([torch.ones(4, 5), nothing[0]]))


LOGITS = torch.zeros(3, 4, dtype=torch.double)
ONE_HOT = [[0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]]
SCORES = torch.tensor([[.5, .5, 0, 0], [0, 1, 0, 0], [.25, .25, .25, .25]])


def make_batch(**fields):
    return BatchDataSample(gt_label=torch.tensor([2, 0, 3]), **fields)


def forms(batch):
    """The batch as a whole, as a list, and with a sample asked for."""
    touched = BatchDataSample(**batch.fields)
    touched[0]
    return [batch, list(BatchDataSample(**batch.fields)), touched]


@pytest.mark.parametrize('form', range(3))
@pytest.mark.parametrize('fields, expected', [
    ({}, ONE_HOT),
    (dict(gt_score=torch.tensor(ONE_HOT)), ONE_HOT),
    (dict(gt_score=SCORES), SCORES.tolist()),
])
def test_labels(form, fields, expected):
    batch = make_batch(**fields)
    labels = soft_labels(forms(batch)[form], LOGITS)
    assert labels.dtype == torch.double and labels.tolist() == expected
    assert not batch.touched


def test_change_of_a_sample_counts():
    batch = make_batch()
    batch[1].set_gt_label(3)
    assert soft_labels(batch, LOGITS).argmax(1).tolist() == [2, 3, 3]


def test_scores_alone():
    batch = BatchDataSample(gt_score=SCORES)
    assert torch.equal(soft_labels(batch, LOGITS), SCORES.double())
