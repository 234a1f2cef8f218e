"""A mistake in a teacher or a loss is told before the first step."""
import copy
from collections import OrderedDict, defaultdict, deque

import pytest
import torch
import torch.nn as nn

from mcod_plugin.errors import ConfigError
from mcod_plugin.models.heads import BaseTeacher, EnsembleTeacher
from mcod_plugin.models.losses import BaseKDLoss
from mcod_plugin.models.utils.rehearsal import starved_norms
from mcod_plugin.registry import MODELS
from ...conftest import HEAD

NET = dict(backbone=dict(type='mcod_plugin.CifarResNet', depth=8, width=2))
BRANCHES = {name: dict(NET, head=HEAD) for name in ('a', 'b')}


def make(**kwargs):
    return MODELS.build(
        dict(
            type='mcod_plugin.MultiBackboneClassifier',
            input_size=8,
            branches=copy.deepcopy(BRANCHES),
            **kwargs))


class Teacher(BaseTeacher):
    """Gives what it is told to."""

    def __init__(self, targets=None, fused=None):
        super().__init__()
        self.given = targets
        self.fused = fused or (lambda z: sum(z.values()))

    def ensemble(self, logits):
        return self.fused(logits)

    def forward(self, logits):
        return self.given(logits)


class Loss(BaseKDLoss):

    def __init__(self, losses):
        super().__init__()
        self.given = losses

    def forward(self, logits, targets):
        return self.given(logits, targets)


class NeedsLabels(BaseKDLoss):

    def forward(self, logits, targets, labels):
        return logits.mean((1, 2))


class OwnLoss(EnsembleTeacher):

    def loss(self, logits, labels):
        return labels.mean()


TEACHERS = [
    (dict(targets=lambda z: list(z.values())),
     'must give a dict of targets by branch; got list'),
    (dict(targets=lambda z: dict(z, c=z['a'])),
     'must give targets of the branches a, b; got one of c'),
    (dict(targets=lambda z: dict(b=z['a'].argmax(1))),
     r'must give a target \(N, C\), \(3, 10\) to b; got \(3,\)'),
    (dict(targets=lambda z: dict(b=None)), 'must give a target .*NoneType'),
    (dict(targets=lambda z: dict(b=torch.stack([z['a'], z['a']]))),
     r'must give a target \(N, C\), \(3, 10\) to b; got \(2, 3, 10\); those '
     'of several peers need per_peer = True'),
    (dict(targets=lambda z: dict(b=z['c'])),
     r"fails on random images: c \(KeyError; set MCOD_DEBUG=1 .*\)"),
    (dict(fused=lambda z: z['a'].softmax(1).amax(1)),
     r': ensemble must give logits \(N, C\), \(3, 10\); got \(3,\)'),
]


@pytest.mark.parametrize('given, words', TEACHERS)
def test_teachers(given, words):
    given.setdefault('targets', dict)
    cohort = make(teacher=Teacher(**given))
    with pytest.raises(
            ConfigError, match=f'^model.teacher.type Teacher:? ?{words}$'):
        cohort.check_distillation()


def test_teacher_with_a_loss():
    with pytest.raises(
            ConfigError,
            match='^model.teacher.type OwnLoss fails on random images: '):
        make(teacher=OwnLoss()).check_distillation()


@pytest.mark.parametrize('loss, words', [
    (Loss(lambda z, t: z.mean()),
     r'Loss must give a tensor of one loss for each branch, \(2,\); got \(\)'),
    (Loss(lambda z, t: (z - t[0]).mean((1, 3))), 'Loss fails on random .*'),
    (NeedsLabels(), 'NeedsLabels fails on random images: .*missing 1 required '
     r"positional argument: 'labels' \(TypeError; set MCOD_DEBUG=1 .*\)"),
])
def test_losses(loss, words):
    with pytest.raises(
            ConfigError, match=f'^model.distill.type {words}$'):
        make(distill=loss).check_distillation()


class Counting(EnsembleTeacher):
    """Remembers, as a module may."""

    def __init__(self):
        super().__init__(ema=.9)
        self.calls, self.history = 0, []
        self.register_buffer('seen', torch.zeros(()))
        self.noise = nn.Dropout()

    def forward(self, logits, **kwargs):
        self.calls += 1
        self.history.append(logits)
        self.last = logits
        self.seen += 1
        self.noise(torch.rand(5))
        return super().forward(logits, **kwargs)


def test_leaves_no_trace():
    branches = copy.deepcopy(BRANCHES)
    cohort = MODELS.build(
        dict(
            type='mcod_plugin.MultiBackboneClassifier',
            input_size=8,
            branches=dict(branches, fixed=dict(branches['a'], frozen=True)),
            teacher=Counting(),
            distill=dict(type='mcod_plugin.BalancedKDLoss')))
    cohort.ratio_due = True
    cohort.branches['a'].backbone.stem.eval()
    parts = cohort.teacher, cohort.distill
    before = copy.deepcopy(cohort.state_dict())
    modes = [module.training for module in cohort.modules()]
    numbers = torch.get_rng_state()
    cohort.check_distillation()
    assert (cohort.teacher, cohort.distill) == parts
    assert cohort.teacher.calls == 0 and cohort.ratio_due
    assert cohort.teacher.history == []
    assert not hasattr(cohort.teacher, 'last')
    assert torch.equal(torch.get_rng_state(), numbers)
    assert [module.training for module in cohort.modules()] == modes
    assert cohort.kd_weight == 0
    for key, value in cohort.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert all(value.grad is None for value in cohort.parameters())


class Remembering(BaseKDLoss):
    """Keeps what it has seen in any place that there is."""

    def __init__(self):
        super().__init__()
        self.center = nn.Parameter(torch.zeros(3), requires_grad=False)
        self.loose = torch.zeros(3)
        self.last = deque([0, 1], maxlen=2)
        self.by_name = defaultdict(list, a=[torch.zeros(3)])
        self.pair = [], OrderedDict()

    def forward(self, logits, targets):
        self.center += 1
        self.loose.data += 1
        self.last.append(targets)
        self.by_name['a'][0] += 1
        self.by_name['a'].append(targets)
        self.by_name['b'].append(targets)
        self.pair[0].append(targets)
        self.pair[1]['a'] = targets
        return (logits - targets).square().mean((1, 2))


def test_memory_of_a_loss():
    cohort = make(distill=Remembering())
    loss = cohort.distill
    cohort.check_distillation()
    for value in (loss.center, loss.loose, *loss.by_name.pop('a')):
        assert torch.equal(value, torch.zeros(3))
    assert loss.last == deque([0, 1]) and loss.last.maxlen == 2
    assert not loss.by_name and loss.pair == ([], {})


def test_averages_move_once_a_step():
    """Whatever looked at them before."""
    cohort = make(teacher=dict(type='mcod_plugin.EnsembleTeacher', ema=.5))
    cohort.check_distillation()
    average = cohort.teacher.ema['a'].head.fc.weight
    weight = cohort.branches['a'].head.fc.weight
    before = average.clone()
    optimizer = torch.optim.SGD(cohort.parameters(), lr=1.)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    torch.testing.assert_close(average, before - .5)


def test_nothing_to_try():
    make(distill=None, teacher=Teacher(list)).check_distillation()


def test_before_the_first_step(tiny_runner):
    """Though nothing is distilled in the first epoch."""
    runner = tiny_runner(epochs=2, **{'custom_hooks.0.begin': 1})
    runner.model.distill = NeedsLabels()
    before = copy.deepcopy(runner.model.state_dict())
    with pytest.raises(ConfigError, match='^model.distill.type NeedsLabels '):
        runner.train()
    assert not runner.started and runner.iter == 0
    assert before.keys() == runner.model.state_dict().keys()


TIMM = dict(
    backbone=dict(
        type='TIMMBackbone', model_name='resnet18', channels=(4, 4, 8, 8)),
    head=HEAD)


@pytest.mark.parametrize('branch, size, starved', [
    (TIMM, 32, True),
    (TIMM, 64, False),
    (dict(TIMM, frozen=True), 32, False),
    (dict(
        backbone=dict(
            type='ResNet', depth=18, base_channels=4, norm_eval=True),
        head=dict(HEAD)), 32, False),
    (dict(
        backbone=dict(type='ResNet', depth=18, base_channels=4),
        head=dict(HEAD)), 32, True),
])
def test_batch_norm_over_one_image(branch, size, starved):
    """PyTorch refuses a single value of each channel, and that alone."""
    cohort = MODELS.build(
        dict(
            type='mcod_plugin.MultiBackboneClassifier',
            input_size=size,
            branches=dict(
                a=copy.deepcopy(BRANCHES['a']), b=copy.deepcopy(branch))))
    before = copy.deepcopy(cohort.state_dict())
    modes = [module.training for module in cohort.modules()]
    names = starved_norms(cohort)
    assert [module.training for module in cohort.modules()] == modes
    for key, value in cohort.state_dict().items():
        assert torch.equal(value, before[key])
    assert bool(names) is starved
    cohort.train()
    inputs = torch.zeros(1, 3, size, size)
    if starved:
        norms = dict(cohort.named_modules())
        assert all(isinstance(norms[name], nn.BatchNorm2d) for name in names)
        with pytest.raises(ValueError, match='more than 1 value per channel'):
            cohort.branches['b'](inputs)
    else:
        cohort.branches['b'](inputs)
    # The other one has enough.
    cohort.branches['a'](inputs)


def test_batch_norm_over_one_image_without_a_loss():
    """A cohort that never distils, as of ``--method solo``."""
    assert not starved_norms(make(distill=None))
