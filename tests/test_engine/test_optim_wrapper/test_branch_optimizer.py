"""Branches with optimizers of their own, against each of them alone."""
import copy
import functools

import pytest
import torch
import torch.distributed as dist
from mmengine.logging import MessageHub
from mmengine.optim import (CosineAnnealingLR, build_optim_wrapper)

from mcod_plugin.engine.optim_wrapper import (BranchOptimizer,
                                              prepare_optim_wrapper)
from mcod_plugin.errors import ConfigError
from mcod_plugin.models.utils.branch_loss import total_loss
from mcod_plugin.registry import MODELS
from mcod_plugin.structures import BatchDataSample
from speed.optimizer_alone import optim_wrapper_alone

SGD = dict(type='SGD', lr=.1, momentum=.9, weight_decay=.01)
ADAMW = dict(type='AdamW', lr=.01, weight_decay=.1)
STEPS = 5
# Small enough to matter in each of the steps.
NORM, VALUE = dict(max_norm=.05), dict(type='value', clip_value=.002)
CLIPPED = dict(
    plain=dict(),
    adam=dict(optimizer=ADAMW, clip_grad=NORM, lr_mult=.5, decay_mult=2.),
    rms=dict(optimizer=dict(type='RMSprop', lr=1e-3), clip_grad=VALUE),
    sgd=dict(clip_grad=NORM),
    free=dict(optimizer=dict(SGD, lr=.2), clip_grad=None))


def make(branches=CLIPPED, **settings):
    torch.manual_seed(0)
    cohort = MODELS.build(
        dict(
            type='mcod_plugin.MultiBackboneClassifier',
            branches={
                name:
                dict(
                    backbone=dict(type='mcod_plugin.CifarAlexNet', width=4),
                    head=dict(type='LinearClsHead', num_classes=5),
                    **own)
                for name, own in branches.items()
            },
            memory_format='contiguous',
            input_size=32,
            **settings))
    cohort.init_weights()
    return cohort.double()


def build(model, **cfg):
    """As the runner does."""
    return build_optim_wrapper(model,
                               prepare_optim_wrapper(dict(cfg), model, False))


def batches():
    generator = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        inputs = torch.randn(
            4, 3, 32, 32, generator=generator, dtype=torch.float64)
        labels = torch.randint(5, (4, ), generator=generator)
        yield inputs, BatchDataSample(gt_label=labels)


def train_cohort(cohort, wrapper, revise=None):
    schedule = CosineAnnealingLR(wrapper, T_max=2 * STEPS)
    for number, (inputs, samples) in enumerate(batches()):
        loss, _ = cohort.parse_losses(cohort(inputs, samples, mode='loss'))
        wrapper.update_params(loss if revise is None else revise(number, loss))
        if wrapper.should_update():
            schedule.step()


def train_alone(branch, wrapper):
    schedule = CosineAnnealingLR(wrapper, T_max=2 * STEPS)
    for inputs, samples in batches():
        wrapper.update_params(total_loss(branch.loss(inputs, samples)))
        if wrapper.should_update():
            schedule.step()


def equal(module, other):
    theirs = other.state_dict()
    return all(
        torch.equal(value, theirs[key])
        for key, value in module.state_dict().items())


PARAMWISE = dict(
    bias_lr_mult=2., custom_keys={'head': dict(lr_mult=3., decay_mult=0.)})


@pytest.mark.parametrize('settings', [
    dict(),
    dict(accumulative_counts=2),
    dict(paramwise_cfg=PARAMWISE),
])
def test_steps_are_those_of_each_branch_alone(settings):
    branches = copy.deepcopy(CLIPPED)
    branches['rms']['optimizer']['weight_decay'] = .01
    cohort = make(branches, distill=None)
    expected = copy.deepcopy(cohort)
    start = copy.deepcopy(cohort)
    cfg = dict(optimizer=SGD, **settings)
    wrapper = build(cohort, **copy.deepcopy(cfg))
    train_cohort(cohort, wrapper)
    kinds = {
        name: type(part).__name__
        for name, part in wrapper.optimizer.optimizers.items()
    }
    assert kinds == {
        '': 'SGD',
        'adam': 'AdamW',
        'rms': 'RMSprop',
        'free': 'SGD'
    }
    for name, branch in expected.branches.items():
        alone = optim_wrapper_alone(cfg, cohort.branch_settings[name])
        train_alone(branch, build(branch, **alone))
        assert equal(branch, cohort.branches[name]), name
        assert not equal(branch, start.branches[name])


def test_limits_matter():
    """Without them the steps would be others."""
    ends = []
    for branches in (CLIPPED, {
            name: dict(own, clip_grad=None)
            for name, own in CLIPPED.items()
    }):
        cohort = make(branches, distill=None)
        train_cohort(cohort, build(cohort, optimizer=SGD))
        ends.append(cohort)
    same = [
        name for name in CLIPPED
        if equal(ends[0].branches[name], ends[1].branches[name])
    ]
    assert same == ['plain', 'free']


def test_norm_over_all_but_those_with_their_own():
    """Also over branches with another optimizer, and over the teacher."""
    branches = dict(
        a=dict(), b=dict(optimizer=ADAMW), c=dict(clip_grad=dict(max_norm=9.)))
    cohort = make(branches, teacher=dict(type='mcod_plugin.GatedTeacher'))
    cohort.kd_weight = 1.
    wrapper = build(cohort, optimizer=SGD, clip_grad=dict(max_norm=.5))
    assert wrapper.clip_grad_kwargs is None
    inputs, samples = next(batches())
    loss, _ = cohort.parse_losses(cohort(inputs, samples, mode='loss'))
    loss.backward()
    norms = {
        name:
        float(
            torch.cat([
                value.grad.flatten()
                for key, value in cohort.named_parameters()
                if key.startswith(prefix)
            ]).norm())
        for name, prefix in dict(
            a='branches.a.',
            b='branches.b.',
            c='branches.c.',
            teacher='teacher.').items()
    }
    assert min(norms.values()) > 0
    own = norms.pop('c')
    joint = sum(norm**2 for norm in norms.values())**.5
    before = [value.grad.clone() for value in cohort.branches.b.parameters()]
    wrapper.step()
    hub = MessageHub.get_current_instance()
    assert hub.get_scalar('train/grad_norm').current() == pytest.approx(joint)
    assert hub.get_scalar('train/c.grad_norm').current() == pytest.approx(own)
    for value, grad in zip(cohort.branches.b.parameters(), before):
        torch.testing.assert_close(
            value.grad, grad * (.5 / (joint + 1e-6)), rtol=1e-9, atol=0)


def test_a_huge_gradient_changes_no_other_update():
    ends = []
    for scale in (1., 1e30):
        cohort = make(distill=None)
        wrapper = build(cohort, optimizer=SGD, clip_grad=dict(max_norm=1.))
        weight = cohort.branches.adam.head.fc.weight
        weight.register_hook(lambda grad, scale=scale: grad * scale)
        train_cohort(cohort, wrapper)
        ends.append(cohort)
    for name in CLIPPED:
        assert equal(ends[0].branches[name], ends[1].branches[name]) == (
            name != 'adam')


def test_the_default_is_one_plain_optimizer():
    cohort = make(dict(a=dict(), b=dict(loss_weight=2.)))
    wrapper = build(cohort, optimizer=SGD, clip_grad=NORM)
    assert type(wrapper.optimizer) is torch.optim.SGD
    assert wrapper.clip_grad_kwargs == NORM


def test_all_have_their_own():
    """The cohort's optimizer then has nothing to do."""
    cohort = make(dict(a=dict(optimizer=ADAMW), b=dict(optimizer=ADAMW)))
    wrapper = build(cohort, optimizer=SGD)
    assert list(wrapper.optimizer.optimizers) == ['a', 'b']
    assert wrapper.get_lr() == dict(base_lr=[.01], lr=[.01, .01])


def test_frozen_branches_and_parameters():
    cohort = make(dict(a=dict(), b=dict(optimizer=ADAMW), c=dict(frozen=True)))
    frozen = next(cohort.branches.b.parameters())
    frozen.requires_grad_(False)
    optimizer = build(cohort, optimizer=SGD).optimizer
    held = {
        value
        for group in optimizer.param_groups
        for value in group['params']
    }
    assert held == {
        value
        for value in cohort.parameters() if value.requires_grad
    }
    assert set(optimizer.parts) == {'a', 'b'}
    assert all(value is not frozen for value in optimizer.parts['b'])


@pytest.mark.parametrize('settings, cfg, words', [
    (dict(optimizer=dict(type='AdanW', lr=1.)), {},
     r"^model\.branches\.b\.optimizer\.type 'AdanW' is no registered "
     'optimizer; did you mean .*AdamW'),
    (dict(optimizer=dict(type='ZeroRedundancyOptimizer', lr=1.)), {},
     r'^model\.branches\.b\.optimizer\.type ZeroRedundancyOptimizer would'),
    (dict(optimizer=dict(type='AdamW'),
          lr_mult=.5), {}, r'^model\.branches\.b\.lr_mult is a factor of '
     r'model\.branches\.b\.optimizer\.lr, which must be set$'),
    (dict(optimizer=dict(type='AdamW', lr=1.)),
     dict(paramwise_cfg=dict(norm_decay_mult=0.)),
     r'^optim_wrapper\.paramwise_cfg\.norm_decay_mult is a factor of '
     r'model\.branches\.b\.optimizer\.weight_decay, which must be set$'),
    (dict(clip_grad=dict(max_nrom=1.)), {},
     r'^model\.branches\.b\.clip_grad\.max_nrom is no setting of '
     r'clip_grad_norm_; did you mean max_norm\?$'),
    (dict(clip_grad=dict(type='nrom', max_norm=1.)), {},
     r"^model\.branches\.b\.clip_grad\.type must be one of norm, value; got "
     "'nrom'$"),
    (dict(clip_grad=dict(norm_type=1)), {},
     r'^model\.branches\.b\.clip_grad\.max_norm must be set'),
    (dict(clip_grad=dict(max_norm='1')), {},
     r'^model\.branches\.b\.clip_grad\.max_norm must be a finite number gre'),
    (dict(), dict(clip_grad=dict(type='value', max_norm=1.)),
     r'^optim_wrapper\.clip_grad\.max_norm is no setting of clip_grad_value_;'
     ),
    (dict(clip_grad=dict(max_norm=1.)),
     dict(constructor='LearningRateDecayOptimWrapperConstructor'),
     r'^model\.branches\.b\.clip_grad needs optim_wrapper\.constructor '),
])
def test_mistakes(settings, cfg, words):
    cohort = make(dict(a=dict(), b=settings))
    with pytest.raises(ConfigError, match=words):
        build(cohort, optimizer=SGD, **cfg)


@pytest.mark.parametrize('settings, words', [
    (dict(optimizer='AdamW'), r'b\.optimizer must be a dict or None; got'),
    (dict(optimizer=dict(lr=1.)), r"b\.optimizer must have a type, such as"),
    (dict(clip_grad=1.), r'b\.clip_grad must be a dict or None; got 1\.0$'),
    (dict(frozen=True, optimizer=SGD), r'b\.optimizer is not used: the bra'),
    (dict(frozen=True, clip_grad=NORM), r'b\.clip_grad is not used: the br'),
])
def test_what_is_no_config(settings, words):
    with pytest.raises(ConfigError, match=rf'^model\.branches\.{words}'):
        make(dict(a=dict(), b=settings))


def test_unknown_setting_of_the_optimizer(tiny_config):
    from mcod_plugin.config.explain import explain
    from mcod_plugin.registry import RUNNERS
    cfg = tiny_config(**{
        'model.branches.vit.optimizer':
        dict(type='AdamW', lr=.01, beta=(.9, .9))
    })
    runner = RUNNERS.build(cfg)
    with pytest.raises(TypeError) as caught:
        runner.build_optim_wrapper(runner.optim_wrapper)
    assert str(explain(cfg, caught.value)) == (
        'model.branches.vit.optimizer.beta is no setting of AdamW; did you '
        'mean betas?')


def test_what_a_run_logs_and_saves(tiny_runner, tmp_path):
    runner = tiny_runner(
        'run', **{
            'model.branches.vit.optimizer': dict(type='AdamW', lr=1e-3),
            'model.branches.vit.clip_grad': dict(max_norm=1.),
            'optim_wrapper.clip_grad': dict(max_norm=2.),
            'param_scheduler': [dict(type='MultiStepLR', milestones=[1])]
        })
    runner.train()
    scalars = runner.message_hub.log_scalars
    for key, first in (('lr', .05), ('vit.lr', 1e-3)):
        values, _ = scalars[f'train/{key}'].data
        assert values == pytest.approx([first] * 4 + [first / 10] * 4)
    for key in ('grad_norm', 'vit.grad_norm'):
        values, _ = scalars[f'train/{key}'].data
        assert len(values) == 8 and (values > 0).all()
    text = next(tmp_path.rglob('*.log')).read_text()
    assert 'vit.lr: ' in text and 'vit.grad_norm: ' in text
    # Of one branch there is no norm over others.
    assert 'clips by the norm over' not in text
    checkpoint = torch.load(
        tmp_path / 'run' / 'epoch_2.pth', weights_only=True)
    assert checkpoint['message_hub']['runtime_info']['optimizer'] == {
        '': 'SGD',
        'vit': 'AdamW'
    }
    names = [
        name for group in checkpoint['optimizer']['param_groups']
        for name in group['param_names']
    ]
    assert sorted(names) == sorted(
        name for name, _ in runner.model.named_parameters())


def test_momentum_that_not_all_have(tiny_runner):
    changes = {
        'param_scheduler':
        [dict(type='CosineAnnealingMomentum', T_max=2, eta_min=.5)]
    }
    tiny_runner('a', 1, **changes).train()
    runner = tiny_runner(
        'b', 1, **changes,
        **{'model.branches.vit.optimizer': dict(type='AdamW', lr=1e-3)})
    with pytest.raises(
            ConfigError,
            match='^param_scheduler.type CosineAnnealingMomentum is of the mo'
    ):
        runner.train()


# Scaled losses. PyTorch scales them on a CPU as well, MMEngine does not.
HAS_SCALER = hasattr(torch, 'amp') and hasattr(torch.amp, 'GradScaler')
needs_scaler = pytest.mark.skipif(
    not HAS_SCALER, reason='this PyTorch scales losses on GPUs only')


@pytest.fixture
def amp_on_cpu(monkeypatch):
    """MMEngine's AmpOptimWrapper, with PyTorch's scaler for CPUs."""
    from mmengine.optim.optimizer import amp_optimizer_wrapper

    from mcod_plugin.engine.optim_wrapper import prepare
    monkeypatch.setattr(amp_optimizer_wrapper, 'is_cuda_available',
                        lambda: True)
    monkeypatch.setattr(amp_optimizer_wrapper, 'GradScaler',
                        functools.partial(torch.amp.GradScaler, 'cpu'))
    monkeypatch.setattr(prepare, 'get_device', lambda: 'cuda')


def overflowing(cohort, at):
    """Have a branch's gradients overflow in a step."""

    def revise(number, loss):
        if number == at:
            value = next(cohort.branches.adam.parameters())
            loss = loss + value.sum() * torch.inf
        return loss

    return revise


@needs_scaler
@pytest.mark.parametrize('branches',
                         [CLIPPED, {
                             name: dict()
                             for name in CLIPPED
                         }])
@pytest.mark.parametrize('joint', [None, dict(max_norm=.5)])
def test_an_overflow_skips_the_step_of_its_branch_alone(
        amp_on_cpu, branches, joint):
    """The others do as if it had not been there. Its optimizer too: neither
    momentum nor weight decay moves what has no gradient."""
    cfg = dict(
        type='AmpOptimWrapper',
        loss_scale=dict(init_scale=2.**10),
        optimizer=SGD,
        clip_grad=joint)
    cohort = make(branches, distill=None)
    other = copy.deepcopy(cohort)
    wrapper = build(cohort, **copy.deepcopy(cfg))
    assert isinstance(wrapper.optimizer, BranchOptimizer)
    seen = []

    def watch(number, loss):
        values = wrapper.optimizer.parts['adam']
        seen.append([value.detach().clone() for value in values])
        return overflowing(cohort, 2)(number, loss)

    train_cohort(cohort, wrapper, watch)
    assert all(map(torch.equal, seen[2], seen[3]))
    assert not any(map(torch.equal, seen[3], seen[4]))
    assert wrapper.loss_scaler.get_scale() == 2.**9
    states = wrapper.optimizer.state
    if 'optimizer' in branches['adam']:
        assert {
            float(states[value]['step'])
            for value in wrapper.optimizer.parts['adam']
        } == {STEPS - 1}

    # A step without gradients of this branch is the same for the others.
    wrapper = build(other, **copy.deepcopy(cfg))

    def without(number, loss):
        for value in other.branches.adam.parameters():
            value.requires_grad_(number != 2)
        return loss

    for number, (inputs, samples) in enumerate(batches()):
        without(number, None)
        if number == 0:
            schedule = CosineAnnealingLR(wrapper, T_max=2 * STEPS)
        loss, _ = other.parse_losses(other(inputs, samples, mode='loss'))
        wrapper.update_params(loss)
        schedule.step()
    assert wrapper.loss_scaler.get_scale() == 2.**10
    assert all(torch.isfinite(value).all() for value in cohort.parameters())
    torch.testing.assert_close(
        dict(cohort.state_dict()),
        dict(other.state_dict()),
        rtol=1e-12,
        atol=1e-14)


@needs_scaler
def test_a_scaled_loss_changes_nothing(amp_on_cpu):
    """Its factor is a power of two."""
    cohort = make(distill=None)
    other = copy.deepcopy(cohort)
    cfg = dict(optimizer=SGD, clip_grad=dict(max_norm=.5))
    train_cohort(cohort,
                 build(cohort, type='AmpOptimWrapper', **copy.deepcopy(cfg)))
    plain = dict(cfg, optimizer=dict(SGD, foreach=False))
    train_cohort(other, build(other, **copy.deepcopy(plain)))
    torch.testing.assert_close(
        dict(cohort.state_dict()),
        dict(other.state_dict()),
        rtol=1e-12,
        atol=1e-14)


@needs_scaler
def test_averages_follow_the_steps_that_are_made(amp_on_cpu):
    cohort = make(
        dict(adam=dict(optimizer=ADAMW), b=dict()),
        teacher=dict(type='mcod_plugin.EnsembleTeacher', ema=.5))
    wrapper = build(cohort, type='AmpOptimWrapper', optimizer=SGD)
    expected = copy.deepcopy(cohort.branches)
    schedule = CosineAnnealingLR(wrapper, T_max=2 * STEPS)
    for number, (inputs, samples) in enumerate(batches()):
        loss, _ = cohort.parse_losses(cohort(inputs, samples, mode='loss'))
        wrapper.update_params(overflowing(cohort, 2)(number, loss))
        schedule.step()
        for name, branch in expected.items():
            if name == 'adam' and number == 2:
                continue
            for value, now in zip(branch.parameters(),
                                  cohort.branches[name].parameters()):
                value.data.mul_(.5).add_(.5 * now.detach())
    for name, branch in expected.items():
        for value, average in zip(
                branch.parameters(),
                cohort.get_submodule(f'teacher.ema.{name}').parameters()):
            torch.testing.assert_close(value, average)


@needs_scaler
def test_what_was_trained_in_half_precision_before_goes_on(amp_on_cpu):
    """A plain optimizer's checkpoint has the same format."""
    branches = dict(a=dict(lr_mult=.5), b=dict())
    cohort = make(branches, distill=None)
    wrapper = build(cohort, type='AmpOptimWrapper', optimizer=SGD)
    plain = build(copy.deepcopy(cohort), optimizer=dict(SGD, foreach=False))
    train_cohort(cohort, wrapper)
    state = wrapper.state_dict()
    del state['loss_scaler']
    assert state.keys() == plain.state_dict().keys()
    plain.load_state_dict(copy.deepcopy(state))
    wrapper.load_state_dict(copy.deepcopy(plain.state_dict()))
    assert wrapper.optimizer.optimizers[''].state is wrapper.optimizer.state
    for one, other in zip(wrapper.optimizer.param_groups,
                          plain.optimizer.param_groups):
        assert one['lr'] == other['lr']
        for mine, theirs in zip(one['params'], other['params']):
            assert torch.equal(
                wrapper.optimizer.state[mine]['momentum_buffer'],
                plain.optimizer.state[theirs]['momentum_buffer'])


# Two processes, each with half of a batch, against one with all of it.
def train_rank(model, cohort, rank=0, world_size=1):
    wrapper = build_optim_wrapper(
        model,
        prepare_optim_wrapper(
            dict(optimizer=SGD, clip_grad=dict(max_norm=.5)), cohort, False))
    cohort.kd_weight = 1.
    cohort.data_preprocessor.forward = lambda data, training=False: data
    part = slice(rank, None, world_size)
    for inputs, samples in batches():
        model.train_step(
            dict(
                inputs=inputs[part],
                data_samples=BatchDataSample(
                    gt_label=samples.fields['gt_label'][part])), wrapper)


def train_share():
    """What each of the processes does."""
    from mmengine.model import MMDistributedDataParallel
    cohort = make()
    model = MMDistributedDataParallel(cohort, device_ids=None)
    train_rank(model, cohort, dist.get_rank(), 2)
    return cohort.state_dict()


@pytest.mark.skipif(
    not dist.is_available() or not dist.is_gloo_available(),
    reason='needs gloo')
def test_two_processes(ranks):
    cohort = make()
    train_rank(cohort, cohort)
    for state_dict in ranks(train_share):
        torch.testing.assert_close(
            state_dict, cohort.state_dict(), rtol=1e-9, atol=1e-12)
