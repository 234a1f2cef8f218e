"""Moving averages of the branches, which teach in their place."""
import copy
from functools import partial
import pickle

import pytest
import torch
import torch.nn as nn
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.runner.checkpoint import load_state_dict as load_like_runner
from mmpretrain.structures import DataSample
from safetensors.torch import load_file

from mcod_plugin.alone.cohort import load_cohort
from mcod_plugin.errors import ConfigError
from mcod_plugin.models.heads import EnsembleTeacher
from mcod_plugin.models.losses import discontinuous_kd_loss
from mcod_plugin.models.utils.branch_averages import BranchAverages
from mcod_plugin.models.utils.pretrained import take_pretrained
from mcod_plugin.publish.weights import write_cohort
from mcod_plugin.registry import MODELS

HEAD = dict(type='LinearClsHead', num_classes=5)
RESNET = dict(
    backbone=dict(type='mcod_plugin.CifarResNet', depth=8, width=4), head=HEAD)
BRANCHES = dict(
    resnet=RESNET,
    # with images of its own, and dropout
    alexnet=dict(
        backbone=dict(type='mcod_plugin.CifarAlexNet', width=4),
        head=HEAD,
        input_size=40,
        mean=[.5] * 3,
        std=[2.] * 3))
DECAY = .9


def make_config(teacher=None, **changes):
    return dict(
        type='mcod_plugin.MultiBackboneClassifier',
        input_size=32,
        branches={
            name: dict(branch, **changes.get(name, {}))
            for name, branch in BRANCHES.items()
        },
        teacher=dict(
            type='mcod_plugin.EnsembleTeacher', ema=DECAY, **(teacher or {})))


def make_cohort(teacher=None, seed=0, **changes):
    torch.manual_seed(seed)
    cohort = MODELS.build(make_config(teacher, **changes))
    cohort.init_weights()
    # The preprocessor would make single precision of it.
    cohort.data_preprocessor.forward = lambda data, training=False: data
    cohort.kd_weight = 1.5
    return cohort.double().train()


def make_batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(6, 3, 32, 32, generator=generator).double()
    return dict(
        inputs=inputs,
        data_samples=[DataSample().set_gt_label(i % 5) for i in range(6)])


def sgd(cohort, **kwargs):
    return torch.optim.SGD(
        cohort.parameters(), lr=.1, momentum=.9, weight_decay=.1, **kwargs)


def values_of(module):
    return {key: value.clone() for key, value in module.state_dict().items()}


def assert_equal(values, others, close=False):
    assert values.keys() == others.keys() and values
    for key, value in values.items():
        torch.testing.assert_close(
            value, others[key], rtol=1e-12 * close, atol=1e-15 * close)


def train_step(cohort, wrapper, batch):
    cohort.train_step(batch, wrapper)


def plain_step(cohort, wrapper, batch):
    """As somebody writes it who knows of no optimizer wrapper."""
    losses = cohort(**batch, mode='loss')
    wrapper.optimizer.zero_grad()
    sum(value for key, value in losses.items() if 'loss' in key).backward()
    wrapper.optimizer.step()


@pytest.mark.parametrize('step', [train_step, plain_step])
def test_three_steps_by_hand(step):
    """On, off, on: an average goes on over a gap."""
    cohort = make_cohort()
    parameters = {name for name, _ in cohort.branches.named_parameters()}
    expected = values_of(cohort.branches)
    wrapper = OptimWrapper(sgd(cohort))
    for seed, kd_weight in enumerate((1., 0., 2.)):
        cohort.kd_weight = kd_weight
        step(cohort, wrapper, make_batch(seed))
        now = values_of(cohort.branches)
        for key, value in now.items():
            expected[key] = value if key not in parameters else (
                DECAY * expected[key] + (1 - DECAY) * value)
        assert_equal(values_of(cohort.teacher.ema), expected, close=True)
    # They have moved, and the statistics are not averaged.
    assert not torch.equal(expected['resnet.head.fc.weight'],
                           now['resnet.head.fc.weight'])
    assert now['resnet.backbone.stem.1.num_batches_tracked'] == 3


def test_keys():
    cohort = make_cohort()
    keys = [
        key for key in cohort.state_dict() if not key.startswith('branches.')
    ]
    assert keys == [
        f'teacher.ema.{name}.{key}' for name in BRANCHES
        for key in cohort.branches[name].state_dict()
    ]
    assert 'ema=0.9' in repr(cohort.teacher)
    plain = MODELS.build(dict(type='mcod_plugin.EnsembleTeacher'))
    assert not plain.state_dict() and plain.ema is None
    assert 'ema' not in repr(plain)


def test_only_steps_count():
    """Neither the passes of one that is accumulated, nor one that a gradient
    scaler skips, nor another network's."""
    cohort = make_cohort()
    wrapper = OptimWrapper(sgd(cohort), accumulative_counts=2)
    before = values_of(cohort.teacher.ema)
    train_step(cohort, wrapper, make_batch())
    other = nn.Linear(2, 2)
    other(torch.zeros(2)).sum().backward()
    torch.optim.SGD(other.parameters(), lr=1.).step()
    assert_equal(values_of(cohort.teacher.ema), before)
    train_step(cohort, wrapper, make_batch())
    key = 'resnet.head.fc.weight'
    torch.testing.assert_close(
        cohort.teacher.ema.state_dict()[key],
        DECAY * before[key] + (1 - DECAY) * cohort.branches.state_dict()[key])


class Outer(torch.optim.Optimizer):
    """An optimizer that leaves the step to another, as that of ZeRO does."""

    def __init__(self, inner):
        super().__init__(inner.param_groups, {})
        self.inner = inner

    def step(self, closure=None):
        if closure is not None:
            closure()
        self.inner.step()


def test_an_optimizer_within_another():
    branch = nn.Linear(2, 2)
    averages = BranchAverages(DECAY)
    averages.begin(dict(a=branch))
    optimizer = Outer(torch.optim.SGD(branch.parameters(), lr=1.))
    with pytest.raises(ZeroDivisionError):
        optimizer.step(lambda: 1 / 0)
    # A step that fails does not keep the next one from counting.
    branch(torch.ones(1, 2)).sum().backward()
    before = branch.weight.detach().clone()
    optimizer.step()
    assert not torch.equal(before, branch.weight)
    torch.testing.assert_close(averages.networks['a'].weight,
                               DECAY * before + (1 - DECAY) * branch.weight)


class Derived(torch.optim.SGD):

    def step(self, closure=None):
        return super().step(closure)


def test_an_optimizer_that_is_derived():
    """PyTorch wraps the step of both classes once both have been used."""
    branch = nn.Linear(2, 2)
    torch.optim.SGD(branch.parameters(), lr=1.)
    averages = BranchAverages(DECAY)
    averages.begin(dict(a=branch))
    branch(torch.ones(1, 2)).sum().backward()
    before = branch.weight.detach().clone()
    Derived(branch.parameters(), lr=1.).step()
    assert not torch.equal(before, branch.weight)
    torch.testing.assert_close(averages.networks['a'].weight,
                               DECAY * before + (1 - DECAY) * branch.weight)


def test_another_optimizer_has_failed():
    """One that is given up, also within a second one."""
    failing = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.)
    failing.step = partial(failing.step, lambda: 1 / 0)
    for optimizer in (failing, Outer(failing)):
        branch = nn.Linear(2, 2)
        averages = BranchAverages(DECAY)
        averages.begin(dict(a=branch))
        with pytest.raises(ZeroDivisionError):
            optimizer.step()
        branch(torch.ones(1, 2)).sum().backward()
        before = branch.weight.detach().clone()
        torch.optim.SGD(branch.parameters(), lr=1.).step()
        torch.testing.assert_close(
            averages.networks['a'].weight,
            DECAY * before + (1 - DECAY) * branch.weight)


def test_an_optimizer_for_each_branch():
    cohort = make_cohort()
    before = values_of(cohort.teacher.ema.alexnet)
    wrapper = OptimWrapper(sgd(cohort.branches.resnet))
    train_step(cohort, wrapper, make_batch())
    assert_equal(values_of(cohort.teacher.ema.alexnet), before)
    key = 'head.fc.weight'
    assert not torch.equal(cohort.teacher.ema.resnet.state_dict()[key],
                           cohort.branches.resnet.state_dict()[key])


def drift(cohort):
    """Averages unlike the branches, with statistics unlike a batch's."""
    torch.manual_seed(1)
    for value in cohort.teacher.ema.parameters():
        value.add_(.1 * torch.randn_like(value))
    for name, value in cohort.teacher.ema.named_buffers():
        if name.endswith(('running_mean', 'running_var')):
            value.add_(torch.rand_like(value))


@pytest.mark.parametrize('teacher, group', [
    ({}, 'resnet alexnet'),
    (dict(leave_one_out=True), 'alexnet'),
    (dict(members='alexnet'), 'alexnet'),
    (dict(weights=dict(resnet=0)), 'alexnet'),
])
def test_targets_are_of_the_averages(teacher, group):
    """In eval mode, on the images of each branch, without a gradient."""
    cohort = make_cohort(teacher)
    drift(cohort)
    batch = make_batch()
    images = cohort.branch_images(batch['inputs'])
    target = torch.stack([
        copy.deepcopy(cohort.teacher.ema[name]).eval()(images[name])
        for name in group.split()
    ]).mean(0)
    student = copy.deepcopy(cohort.branches.resnet).train()
    expected = 1.5 * discontinuous_kd_loss(
        student(images['resnet']), target.detach(), 3.)
    losses = cohort(**batch, mode='loss')
    torch.testing.assert_close(losses['resnet.loss_kd'], expected.double())
    before = values_of(cohort.teacher.ema)
    sum(value for key, value in losses.items() if 'loss' in key).backward()
    assert_equal(values_of(cohort.teacher.ema), before)
    for value in cohort.teacher.ema.parameters():
        assert value.grad is None and not value.requires_grad
    # The prediction is that of the branches.
    cohort.eval()
    logits = cohort.branch_logits(batch['inputs'])
    torch.testing.assert_close(
        cohort(**batch), cohort.teacher.ensemble(logits))


def test_labels_and_averages():
    """The fusion asks how right the averages are."""
    cohort = make_cohort(dict(fusion='confidence'))
    plain = MODELS.build(
        dict(type='mcod_plugin.EnsembleTeacher', fusion='confidence'))
    drift(cohort)
    batch = make_batch()
    images = cohort.branch_images(batch['inputs'])
    labels = torch.eye(5)[[0, 1, 2, 3, 4, 0]].double()
    logits = cohort.branch_logits(batch['inputs'])
    averaged = {
        name: network(images[name])
        for name, network in cohort.teacher.ema.items()
    }
    assert torch.equal(
        cohort.teacher(logits, labels, images=images)['resnet'],
        plain(averaged, labels)['resnet'])


def test_they_run_in_on_phases_only():
    cohort = make_cohort()
    calls = []
    for name, network in cohort.teacher.ema.items():
        network.register_forward_hook(
            lambda module, *_, name=name: calls.append(
                (name, module.training, torch.is_grad_enabled())))
    wrapper = OptimWrapper(sgd(cohort))
    cohort.kd_weight = 0.
    train_step(cohort, wrapper, make_batch())
    cohort.kd_weight = 1.
    with torch.no_grad():
        cohort(make_batch()['inputs'])
        cohort.predict(make_batch()['inputs'])
    assert not calls
    train_step(cohort, wrapper, make_batch())
    assert calls == [('resnet', False, False), ('alexnet', False, False)]


def test_a_frozen_branch_teaches_itself():
    cohort = make_cohort(alexnet=dict(frozen=True))
    assert list(cohort.teacher.ema) == ['resnet']
    images = cohort.branch_images(make_batch()['inputs'])
    logits = cohort.branch_logits(make_batch()['inputs'])
    average = cohort.teacher.ema.resnet(images['resnet'])
    torch.testing.assert_close(
        cohort.teacher(logits, images=images)['resnet'],
        (average + logits['alexnet']) / 2)


def test_only_those_that_teach_are_averaged():
    assert list(make_cohort(
        dict(members='alexnet')).teacher.ema) == ['alexnet']
    with pytest.raises(ConfigError, match=r'members \(alexnet\) are frozen$'):
        make_cohort(dict(members='alexnet'), alexnet=dict(frozen=True))


def test_they_begin_where_the_branches_begin(tmp_path):
    path = str(tmp_path / 'start.pth')
    torch.save(make_cohort(seed=1).branches.resnet.backbone.state_dict(), path)
    backbone = dict(
        RESNET['backbone'], init_cfg=dict(type='Pretrained', checkpoint=path))
    # The file is read for the branch alone.
    built = MODELS.build(make_config(resnet=dict(backbone=backbone)))
    assert list(take_pretrained(built)) == ['branches.resnet.backbone']
    cohort = make_cohort(resnet=dict(backbone=backbone))
    assert_equal(values_of(cohort.teacher.ema), values_of(cohort.branches))
    key = 'resnet.backbone.stem.0.weight'
    assert torch.equal(cohort.teacher.ema.state_dict()[key],
                       make_cohort(seed=1).branches.state_dict()[key])
    # In the same memory formats, for speed.
    assert cohort.memory_formats['alexnet'] == torch.channels_last
    for value, average in zip(cohort.branches.parameters(),
                              cohort.teacher.ema.parameters()):
        assert average.stride() == value.stride()


def load_by_assignment(module, state_dict):
    module.load_state_dict(state_dict, assign=True)


@pytest.mark.parametrize(
    'load', [nn.Module.load_state_dict, load_like_runner, load_by_assignment])
def test_load(load):
    trained = make_cohort(seed=1)
    train_step(trained, OptimWrapper(sgd(trained)), make_batch())
    whole = trained.state_dict()
    cohort = make_cohort()
    load(cohort, whole)
    assert_equal(values_of(cohort), whole)
    # From weights alone they begin anew ...
    weights = {
        key: value
        for key, value in whole.items() if key.startswith('branches.')
    }
    cohort = make_cohort()
    load(cohort, dict(weights))
    assert_equal(values_of(cohort.teacher.ema), values_of(trained.branches))
    assert_equal(values_of(cohort.branches), values_of(trained.branches))
    # ... and are not the same tensors.
    train_step(cohort, OptimWrapper(sgd(cohort)), make_batch())
    key = 'resnet.head.fc.weight'
    assert not torch.equal(cohort.teacher.ema.state_dict()[key],
                           cohort.branches.state_dict()[key])
    # Only some of them are a mistake.
    for name in BRANCHES:
        part = {
            key: value
            for key, value in whole.items()
            if not key.startswith(f'teacher.ema.{name}.')
        }
        with pytest.raises(ConfigError, match='it lacks teacher'):
            load(make_cohort(), part)


@pytest.mark.parametrize(
    'copied', [copy.deepcopy, lambda given: pickle.loads(pickle.dumps(given))])
def test_a_copy_follows_its_own_branches(copied):
    cohort = make_cohort()
    del cohort.data_preprocessor.forward
    before = values_of(cohort)
    other = copied(cohort)
    optimizer = sgd(other)
    other(**make_batch(), mode='loss')['resnet.loss_ce'].backward()
    optimizer.step()
    key = 'resnet.head.fc.weight'
    expected = DECAY * before[f'branches.{key}'] + (
        1 - DECAY) * other.branches.state_dict()[key]
    torch.testing.assert_close(other.teacher.ema.state_dict()[key], expected)
    assert_equal(values_of(cohort), before)


def test_a_teacher_that_is_used_again():
    """It averages the branches of the last cohort."""
    config = make_config(
        resnet=dict(backbone=dict(RESNET['backbone'], width=6)))
    del config['branches']['alexnet']
    cohort = MODELS.build(dict(config, teacher=make_cohort().teacher))
    assert_equal(values_of(cohort.teacher.ema), values_of(cohort.branches))


def test_half_precision():
    cohort = make_cohort().float()
    images = cohort.branch_images(make_batch()['inputs'].float())
    with torch.autocast('cpu', dtype=torch.bfloat16):
        logits = cohort.teacher.averages.logits(images)
    assert {value.dtype for value in logits.values()} == {torch.float32}


@pytest.mark.parametrize('given, words', [
    (1, r'must be less than 1; got 1'),
    (-.1, r'must be a finite number of at least 0; got -0\.1'),
    (True, r'must be a finite number of at least 0; got True'),
    ('x', r"must be a finite number of at least 0; got 'x'"),
])
def test_bad_setting(given, words):
    with pytest.raises(ConfigError, match=rf'^model\.teacher\.ema {words}$'):
        MODELS.build(dict(type='mcod_plugin.EnsembleTeacher', ema=given))


def test_a_branch_that_cannot_be_copied():
    branch = nn.Linear(2, 2)
    branch.scaled = branch.weight * 2
    with pytest.raises(
            ConfigError,
            match=r'^model\.teacher\.ema needs a copy of '
            r'model\.branches\.a, which cannot be made: Only Tensors created'):
        BranchAverages(.9).begin(dict(a=branch))


def test_they_are_neither_exported_nor_published(tmp_path):
    cohort = make_cohort().float()
    cfg = Config(dict(model=make_config()))
    opened = load_cohort(cfg, 'a.pth', dict(state_dict=cohort.state_dict()))
    assert sum(value.numel() for value in opened.parameters()) == sum(
        value.numel() for value in cohort.branches.parameters())
    assert cfg.model == make_config()
    write_cohort(cfg, opened, {}, str(tmp_path))
    expected = {
        key: value
        for key, value in cohort.state_dict().items()
        if key.startswith('branches.')
    }
    saved = torch.load(tmp_path / 'model.pth', weights_only=True)
    assert_equal(saved['state_dict'], expected)
    assert_equal(load_file(tmp_path / 'model.safetensors'), expected)
    # It can be trained on, by the config that it has.
    model = Config.fromfile(tmp_path / 'config.py').model
    other = MODELS.build(model)
    other.load_state_dict(saved['state_dict'])
    assert_equal(values_of(other.teacher.ema), values_of(cohort.branches))


@MODELS.register_module()
class KeepingTeacher(EnsembleTeacher):
    """A user's own, which may not do without what it calls so."""

    def __init__(self, ema):
        super().__init__(ema=ema)
        self.steps = ema + 1


def test_a_teacher_of_a_user_keeps_what_it_has():
    config = dict(
        make_config(),
        teacher=dict(type='mcod_plugin.KeepingTeacher', ema=DECAY))
    cohort = MODELS.build(config).float()
    for value in cohort.teacher.ema.parameters():
        value.data.add_(1)
    opened = load_cohort(
        Config(dict(model=config)), 'a.pth',
        dict(state_dict=cohort.state_dict()))
    assert_equal(values_of(opened), values_of(cohort))
