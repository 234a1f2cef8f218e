"""Steps that are recorded and replayed are plain steps, bit by bit.

A tape stands where a GPU would record a graph.
"""
import copy
import random

import numpy as np
import pytest
import torch
from mmengine.optim import OptimWrapper
from mmpretrain.structures import DataSample

from mcod_plugin.engine.graph import GraphedStep
from mcod_plugin.engine.optim_wrapper import (AutocastOptimWrapper,
                                              GradientNorms)
from mcod_plugin.errors import ConfigError
from mcod_plugin.models.heads import BaseTeacher
from mcod_plugin.models.losses import BaseKDLoss, DiscontinuousKDLoss
from mcod_plugin.registry import MODELS
from mcod_plugin.structures import BatchDataSample
from ...conftest import HEAD, TRANSFORMER
from ...tape import TapeRecorder

STEPS = 24
SGD = dict(lr=.1, momentum=.9, nesterov=True, weight_decay=5e-4, fused=True)


def build(branches=None, **changes):
    """A convolutional network and a transformer with dropout."""
    pair = dict(
        resnet=dict(
            backbone=dict(type='mcod_plugin.CifarResNet', depth=8, width=4),
            head=dict(HEAD)),
        vit=dict(backbone=dict(TRANSFORMER), head=dict(HEAD)))
    for name, settings in (branches or {}).items():
        pair[name] = dict(pair.get(name, pair['resnet']), **settings)
    cfg = dict(
        type='mcod_plugin.MultiBackboneClassifier',
        input_size=16,
        data_preprocessor=dict(mean=[78.] * 3, std=[96.] * 3),
        branches=pair)
    torch.manual_seed(0)
    cohort = MODELS.build({**cfg, **copy.deepcopy(changes)})
    cohort.init_weights()
    return cohort


def batches(sizes=(6, 6, 6), whole=True):
    """Batches as the loaders give them, by the batch or one by one."""
    generator = torch.Generator().manual_seed(1)
    found = []
    for size in sizes:
        images = torch.randint(
            0, 256, (size, 3, 16, 16), generator=generator).byte()
        labels = torch.randint(0, 10, (size, ), generator=generator)
        samples = BatchDataSample(
            gt_label=labels, sample_idx=torch.arange(size))
        if not whole:
            images = list(images)
            samples = [DataSample().set_gt_label(label) for label in labels]
        found.append(dict(inputs=images, data_samples=samples))
    return found


class Result:
    """What comes of some steps with changing learning rates and weights.

    Attributes:
        step (GraphedStep | None): What has made them.
    """

    def __init__(self,
                 cohort,
                 data=None,
                 graphed=True,
                 strict=True,
                 optimizer=None,
                 groups=None,
                 wrapper=OptimWrapper,
                 weights=lambda i: (0., 1., .5)[i // 4 % 3],
                 before=None,
                 **settings):
        cohort = copy.deepcopy(cohort)
        cohort.train()
        kind, options = optimizer or (torch.optim.SGD, SGD)
        groups = groups or (lambda cohort: cohort.parameters())
        wrapper = wrapper(
            optimizer=kind(groups(cohort), **options),
            **copy.deepcopy(settings))
        GradientNorms.defer(wrapper)
        recorder = TapeRecorder(cohort, wrapper)
        self.step = GraphedStep(cohort, wrapper, recorder, strict)
        step = self.step if graphed else cohort.train_step
        self.cohort, self.wrapper, self.tapes = cohort, wrapper, recorder.tapes
        self.rows = []
        random.seed(0), np.random.seed(0), torch.manual_seed(0)
        data = batches() if data is None else data
        rates = [group['lr'] for group in wrapper.param_groups]
        for i in range(STEPS):
            weight = weights(i)
            if isinstance(weight, dict):
                cohort.kd_weights.update(weight)
            else:
                cohort.kd_weight = weight
            for group, rate in zip(wrapper.param_groups, rates):
                group['lr'] = rate / (1 + i)
            if i % 3 == 0:
                cohort.ratio_due = True
            if before is not None:
                before(self, i)
            logs = step(copy.deepcopy(data[i % len(data)]), wrapper)
            norms = GradientNorms.of(wrapper)
            self.rows.append({
                key: value.detach().item()
                for key, value in {
                    **logs,
                    **(norms.take() if norms else {})
                }.items()
            })

    def tensors(self):
        yield from self.cohort.state_dict().values()
        for state in self.wrapper.optimizer.state.values():
            yield from filter(torch.is_tensor, state.values())

    def __eq__(self, other):
        # As text: NaN is what a branch logs that is left out.
        return repr(self.rows) == repr(other.rows) and all(
            torch.equal(one, two)
            for one, two in zip(self.tensors(), other.tensors(), strict=True))


def compare(cohort, replays=12, **settings):
    """Train a cohort by recorded steps, which must be as the plain ones."""
    plain = Result(cohort, graphed=False, **settings)
    graphed = Result(cohort, **settings)
    assert [list(row) for row in graphed.rows] == [
        list(row) for row in plain.rows
    ]
    assert graphed == plain
    assert graphed.step.replays >= replays and plain.step.replays == 0
    return graphed


def ensemble(**settings):
    return dict(teacher=dict(type='mcod_plugin.EnsembleTeacher', **settings))


def loss(name, **settings):
    return dict(distill=dict(type=f'mcod_plugin.{name}', **settings))


PARTS = dict(
    mean=ensemble(),
    weighted=ensemble(weights=dict(vit=2.)),
    prob_mean=ensemble(fusion='prob_mean', leave_one_out=True),
    min_logit=ensemble(fusion='min_logit'),
    confidence=ensemble(fusion='confidence'),
    one_teaches=ensemble(members='vit'),
    averaged=ensemble(ema=.9),
    gated=dict(teacher=dict(type='mcod_plugin.GatedTeacher')),
    gated_norm=dict(teacher=dict(type='mcod_plugin.GatedTeacher', norm=True)),
    peers=dict(
        teacher=dict(type='mcod_plugin.PeerTeacher'), **loss('MutualKDLoss')),
    balanced=loss('BalancedKDLoss'),
    balanced_peers=dict(
        teacher=dict(type='mcod_plugin.PeerTeacher'),
        **loss('BalancedKDLoss', loss=dict(type='mcod_plugin.MutualKDLoss'))),
    dist=loss('DISTLoss'),
    dkd=loss('DKDLoss'),
    features=loss('FeatureKDLoss'),
    never=dict(distill=None))


@pytest.mark.parametrize('name', PARTS)
def test_every_teacher_and_loss(name):
    compare(build(**PARTS[name]))


def test_no_teacher_or_loss_is_left_out():
    used = set()
    for part in PARTS.values():
        cohort = build(**part)
        used.update(type(module) for module in cohort.modules())
    ours = {
        part
        for part in MODELS.module_dict.values()
        if issubclass(part, (BaseTeacher, BaseKDLoss))
        and part.__module__.startswith('mcod_plugin.')
    }
    assert len(ours) > 5 and ours <= used


@pytest.mark.parametrize('settings', [
    dict(data=batches((6, 6, 4))),
    dict(data=batches(whole=False)),
    dict(data=batches((6, 4, 6), whole=False)),
    dict(wrapper=AutocastOptimWrapper, dtype='bfloat16'),
    dict(clip_grad=dict(max_norm=.5)),
    dict(clip_grad=dict(type='value', clip_value=.01)),
    dict(optimizer=(torch.optim.AdamW, dict(lr=1e-3, fused=True))),
    dict(optimizer=(torch.optim.Adam, dict(lr=1e-3, fused=True, amsgrad=True))
         ),
    dict(weights=lambda i: dict(resnet=i % 2, vit=.1 * i)),
    dict(
        weights=lambda i: .3 + i,
        groups=lambda cohort: [
            dict(params=branch.parameters(), lr=.1 * rate)
            for rate, branch in enumerate(cohort.branches.values(), 1)
        ]),
], ids=lambda settings: ' '.join(settings))
def test_ways_to_train(settings):
    compare(build(), replays=8, **settings)


AUGMENTS = dict(
    mixup=dict(type='Mixup', alpha=.8),
    cutmix=dict(type='CutMix', alpha=1.),
    either=[dict(type='Mixup', alpha=.8),
            dict(type='CutMix', alpha=1.)])


@pytest.mark.parametrize('name', AUGMENTS)
@pytest.mark.parametrize('whole', [True, False])
def test_batch_augmentations(name, whole):
    cohort = build(train_cfg=dict(augments=AUGMENTS[name]))
    compare(cohort, data=batches(whole=whole))


COHORTS = dict(
    settings=dict(
        resnet=dict(input_size=20, mean=[80.] * 3, std=[90.] * 3),
        vit=dict(loss_weight=2.)),
    frozen=dict(vit=dict(frozen=True)),
    label_smoothing=dict(
        vit=dict(
            head=dict(
                HEAD,
                loss=dict(
                    type='LabelSmoothLoss',
                    label_smooth_val=.1,
                    mode='original')))),
    accuracy=dict(vit=dict(head=dict(HEAD, cal_acc=True))),
    all_batches=dict(
        vgg=dict(
            backbone=dict(
                type='TIMMBackbone',
                model_name='resnet10t',
                features_only=True))))


@pytest.mark.parametrize('name', COHORTS)
def test_branches(name):
    compare(build(COHORTS[name]))
