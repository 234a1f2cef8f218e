"""Steps that are recorded and replayed are plain steps, bit by bit.

A tape stands where a GPU would record a graph.
"""
import copy
import logging
import random

import numpy as np
import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.optim import OptimWrapper
from mmpretrain.structures import DataSample

from mcod_plugin.engine.graph import GraphedStep
from mcod_plugin.engine.optim_wrapper import AutocastOptimWrapper
from mcod_plugin.engine.optim_wrapper.gradient_norms import GradientNorms
from mcod_plugin.errors import ConfigError
from mcod_plugin.models.heads import BaseTeacher
from mcod_plugin.models.losses import BaseKDLoss, DiscontinuousKDLoss
from mcod_plugin.registry import MODELS
from mcod_plugin.structures import BatchDataSample
from ...conftest import HEAD, TRANSFORMER
from ...tape import TapeRecorder

STEPS = 18


@pytest.fixture
def told():
    """What the log tells, which MMEngine keeps to itself."""
    found = []
    handler = logging.Handler()
    handler.emit = lambda record: found.append(record.getMessage())
    MMLogger.get_current_instance().addHandler(handler)
    return found


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


class Given(torch.nn.Module):
    """A preprocessor that has nothing to do."""

    def forward(self, data, training):
        return dict(data)


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
                 weights=lambda i: (0., 1., .5)[i // 3 % 3],
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
        # NaN is what a branch logs and may have that is left out.
        return repr(self.rows) == repr(other.rows) and all(
            bool(((one == two) | (one != one) & (two != two)).all())
            for one, two in zip(self.tensors(), other.tensors(), strict=True))


def compare(cohort, replays=10, **settings):
    """Train a cohort by recorded steps, which must be as the plain ones."""
    plain = Result(cohort, graphed=False, **settings)
    graphed = Result(cohort, **settings)
    assert [list(row)
            for row in graphed.rows] == [list(row) for row in plain.rows]
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


@pytest.mark.parametrize(
    'settings', [
        dict(data=batches((6, 6, 4))),
        dict(data=batches(whole=False)),
        dict(data=batches((6, 4, 6), whole=False)),
        dict(wrapper=AutocastOptimWrapper, dtype='bfloat16'),
        dict(clip_grad=dict(max_norm=.5)),
        dict(clip_grad=dict(type='value', clip_value=.01)),
        dict(optimizer=(torch.optim.AdamW, dict(lr=1e-3, fused=True))),
        dict(
            optimizer=(torch.optim.Adam,
                       dict(lr=1e-3, fused=True, amsgrad=True))),
        dict(weights=lambda i: dict(resnet=i % 2, vit=.1 * i)),
        dict(
            weights=lambda i: .3 + i,
            groups=lambda cohort: [
                dict(params=branch.parameters(), lr=.1 * rate)
                for rate, branch in enumerate(cohort.branches.values(), 1)
            ]),
    ],
    ids=lambda settings: ' '.join(settings))
def test_ways_to_train(settings):
    compare(build(), replays=8, **settings)


AUGMENTS = dict(
    mixup=dict(type='Mixup', alpha=.8),
    cutmix=dict(type='CutMix', alpha=1.),
    either=[dict(type='Mixup', alpha=.8),
            dict(type='CutMix', alpha=1.)])


@pytest.mark.parametrize('name, whole', [('mixup', True), ('cutmix', False),
                                         ('either', True)])
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
    other_norms=dict(
        net=dict(
            backbone=dict(
                type='TIMMBackbone',
                model_name='test_efficientnet',
                features_only=True))))


@pytest.mark.parametrize('name', COHORTS)
def test_branches(name):
    compare(build(COHORTS[name]))


def test_branches_that_diverge():

    def spoil(result, step):
        if step == 0:
            # Hooks of gradients are not copied with a cohort.
            result.cohort.leave_out_diverged()
        if step == 10:
            # In the middle of replays.
            result.cohort.branches.vit.head.fc.bias.data.fill_(torch.nan)

    cohort = build(
        dict(net=dict(loss_weight=2.)),
        teacher=dict(type='mcod_plugin.GatedTeacher', norm=True))
    found = compare(cohort, before=spoil, clip_grad=dict(max_norm=1.))
    assert found.cohort.alive.tolist() == [True, False, True]
    assert np.isfinite(found.rows[-1]['loss'])
    assert np.isnan(found.rows[-1]['vit.loss_ce'])


def test_compiled_branches():
    cohort = build(dict(vit=dict(frozen=True)))
    torch._dynamo.reset()
    plain = Result(cohort, graphed=False)
    for branch in cohort.branches.values():
        branch.compile(backend='aot_eager')
    graphed = Result(cohort)
    assert graphed.step.replays >= 10
    assert len(graphed.rows) == len(plain.rows)
    for one, two in zip(graphed.rows, plain.rows):
        assert one == pytest.approx(two, rel=1e-4)


def test_what_is_read_on_the_device_is_seen(monkeypatch):
    """The comparison would find a number that is built in."""
    from mcod_plugin.engine.graph import device_numbers
    cohort = build()
    plain = Result(cohort, graphed=False)
    write = device_numbers.DeviceNumbers.write

    def write_once(numbers, values):
        if numbers._known is None:
            write(numbers, values)

    for number in range(2):
        with monkeypatch.context() as patch:

            def some(numbers, values, number=number):
                is_rate = numbers._values.dtype == torch.float64
                (write_once if is_rate == number else write)(numbers, values)

            patch.setattr(device_numbers.DeviceNumbers, 'write', some)
            wrong = Result(cohort)
        assert wrong.step.replays >= 10 and wrong != plain


@pytest.mark.parametrize('what', ['copy_', 'ratio', 'undo', 'generator'])
def test_it_is_seen_what_a_replay_leaves_out(monkeypatch, what):
    cohort = build()
    plain = Result(cohort, graphed=False)
    if what == 'copy_':
        monkeypatch.setattr(
            'mcod_plugin.engine.graph.step_batch.StepBatch.'
            'copy_', lambda *args: None)
    elif what == 'ratio':
        monkeypatch.setattr(GraphedStep, '_model_kind',
                            lambda step: step._model.kd_weight > 0)
    elif what == 'undo':
        monkeypatch.setattr(TapeRecorder, '_state', lambda recorder: ())
    else:
        monkeypatch.setattr(torch, 'set_rng_state', lambda state: None)
    assert Result(cohort) != plain


class Waiting(DiscontinuousKDLoss):
    """A loss that cannot be recorded."""

    def __init__(self, way):
        super().__init__()
        self.way = way
        self.part = torch.nn.Module()
        self.part.steps = 0

    def forward(self, logits, targets):
        found = super().forward(logits, targets)
        return getattr(self, f'_{self.way}')(found)

    def _item(self, found):
        return found * (1. if found.sum().item() < 1e9 else 2.)

    def _branch(self, found):
        return found * 2 if found.sum() > 1e9 else found

    def _tolist(self, found):
        return found * max(1., *found.tolist()) / max(1., *found.tolist())

    def _mask(self, found):
        return torch.stack([found[found >= 0].sum() / len(found)] * len(found))

    def _constant(self, found):
        return found * torch.tensor(2., device=found.device)

    def _count(self, found):
        self.part.steps += 1
        return found * (1 + self.part.steps / 10)

    def _python(self, found):
        return found * random.random()

    def _numpy(self, found):
        return found * np.random.rand()


WAITING = dict(
    item='_local_scalar_dense has the host wait',
    branch='_local_scalar_dense has the host wait',
    tolist='tolist has the host wait',
    mask='how many a mask chooses has the host wait',
    constant='a number of the host is built in',
    count='it changes model.distill.part.steps',
    python='it draws random numbers on the host',
    numpy='it draws random numbers on the host')


@pytest.mark.parametrize('way', WAITING)
def test_what_cannot_be_recorded(way, told):
    """With 'auto' training goes on as it is, from the very step."""
    cohort = build(distill=Waiting(way))
    with pytest.raises(ConfigError) as info:
        Result(cohort)
    assert WAITING[way] in str(info.value)
    assert str(info.value).startswith('cuda_graph=True: the training step')
    assert '\n' not in str(info.value)
    found = Result(cohort, strict=False)
    assert found == Result(cohort, graphed=False)
    warnings = [text for text in told if WAITING[way] in text]
    assert len(warnings) == 1 and 'is not recorded' in warnings[0]


def test_fields_that_are_no_tensor(told):
    """Steps on such batches are made as they are, all others recorded."""
    data = batches((6, 5, 6), whole=False)
    for place, sample in enumerate(data[1]['data_samples']):
        sample.set_field(torch.zeros(place), 'boxes')
    found = compare(build(), replays=5, data=data, weights=lambda i: 1.)
    assert found.step.recordings == 2
    warnings = [text for text in told if 'fields of its images' in text]
    assert len(warnings) == 1 and 'is not recorded' in warnings[0]


def test_settings_that_change():
    """They are other kinds of steps, or have all recorded anew."""

    def change(result, step):
        cohort = result.cohort
        if step == 8:
            cohort.distill.temperature = 1.5
        if step == 9:
            for group in result.wrapper.param_groups:
                group['weight_decay'] = .3
        if step == 12:
            cohort.branches.vit.head.fc.weight.requires_grad_(False)
            result.step.doubt()

    found = compare(build(), replays=3, before=change, weights=lambda i: 1.)
    assert found.step.recordings == 3


def test_places_that_change(told):
    """What is recorded is dropped when memory is another."""

    def change(result, step):
        if step == 9:
            fc = result.cohort.branches.vit.head.fc
            fc.weight.data = fc.weight.data.clone()
            result.step.doubt()
        if step == 14:
            optimizer = result.wrapper.optimizer
            optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
            result.step.doubt()

    found = compare(build(), replays=6, before=change, weights=lambda i: 0.)
    assert found.step.recordings == 3
    assert [text for text in told if 'recorded anew' in text] == [
        'The training step is recorded anew: where the parameters lie has '
        'changed.', "The training step is recorded anew: where the "
        "optimizer's state lies has changed."
    ]


def test_a_setting_that_changes_with_every_step(told, monkeypatch):
    monkeypatch.setattr('mcod_plugin.engine.graph.graphed_step.MAX_KINDS', 4)

    def change(result, step):
        result.cohort.distill.temperature = 1. + step

    found = compare(build(), replays=0, before=change, weights=lambda i: 1.)
    assert found.step.recordings == 0
    assert sum('there are more than 4 kinds of it' in text
               for text in told) == 1


def test_images_by_branch():
    """A view that branches share stays one; others are read by their own."""
    names = ('resnet', 'vit', 'net')
    data = batches()
    for batch, other in zip(data, batches()[::-1]):
        views = [(value['inputs'].float() - 78) / 96
                 for value in (batch, other)]
        batch['inputs'] = dict(zip(names, [*views, views[0]]))
    cohort = build(dict(net={}))
    # As if the preprocessor and the images of branches took them.
    cohort.data_preprocessor = Given()
    cohort.branch_images.forward = lambda images, names=None: dict(images)
    found = compare(cohort, data=data)
    inputs = next(iter(found.step._recorded.values())).batch.inputs
    assert inputs['resnet'] is inputs['net']
    assert inputs['resnet'] is not inputs['vit']


def test_a_copy_of_the_model_is_trained_as_it_is():
    result = Result(build())
    result.cohort.train_step = result.step
    copied = copy.deepcopy(result.cohort)
    before = result.step.replays
    logs = copied.train_step(
        batches()[0],
        OptimWrapper(torch.optim.SGD(copied.parameters(), lr=.1)))
    assert result.step.replays == before and logs['loss'].isfinite()
