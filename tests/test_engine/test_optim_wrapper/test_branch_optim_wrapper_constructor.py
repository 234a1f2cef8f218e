import copy

import pytest
import torch
import torch.nn as nn
from mmengine.optim import build_optim_wrapper

from mcod_plugin.engine.optim_wrapper.branch_optim_wrapper_constructor import \
    with_branch_constructor  # noqa: E501
from mcod_plugin.engine.optim_wrapper.branch_optim_wrapper_constructor import (
    BranchOptimWrapperConstructor, branch_factors, merge_groups)
from mcod_plugin.errors import ConfigError
from mcod_plugin.registry import MODELS
from mcod_plugin.structures import BatchDataSample

NAME = 'mcod_plugin.BranchOptimWrapperConstructor'
SGD = dict(
    type='SGD', lr=.1, momentum=.9, weight_decay=.01, nesterov=True)
ADAMW = dict(type='AdamW', lr=.01, weight_decay=.1)


def net(**settings):
    return dict(
        backbone=dict(type='mcod_plugin.CifarResNet', depth=8, width=4),
        head=dict(type='LinearClsHead', num_classes=5),
        **settings)


def make(**branches):
    torch.manual_seed(0)
    cohort = MODELS.build(
        dict(
            type='mcod_plugin.MultiBackboneClassifier',
            branches=branches,
            teacher=dict(type='mcod_plugin.GatedTeacher'),
            input_size=8))
    cohort.init_weights()
    return cohort.double()


def build(cohort, optimizer=SGD, **settings):
    return build_optim_wrapper(
        cohort, dict(constructor=NAME, optimizer=optimizer, **settings))


def rates(cohort, wrapper):
    """Learning rate and weight decay by parameter."""
    names = {value: name for name, value in cohort.named_parameters()}
    return {
        names[value]: (group['lr'], group['weight_decay'])
        for group in wrapper.optimizer.param_groups
        for value in group['params']
    }


def is_norm(cohort, name):
    module = cohort.get_submodule(name.rpartition('.')[0])
    return isinstance(module, nn.BatchNorm2d)


@pytest.mark.parametrize('optimizer', [SGD, ADAMW])
@pytest.mark.parametrize('decay_of_norms', [1., 0.])
def test_steps_are_those_of_separate_optimizers(optimizer, decay_of_norms):
    cohort = make(
        vgg=net(lr_mult=.1, decay_mult=3.), vgg2=net(), net=net(lr_mult=2.))
    cohort.kd_weight = 1.
    other = copy.deepcopy(cohort)
    paramwise = {} if decay_of_norms == 1 else dict(
        paramwise_cfg=dict(norm_decay_mult=decay_of_norms))
    wrapper = build(cohort, optimizer, **paramwise)

    settings = dict(optimizer)
    kind = getattr(torch.optim, settings.pop('type'))
    separate = []
    parts = {
        'branches.vgg.': (.1, 3.),
        'branches.vgg2.': (1., 1.),
        'branches.net.': (2., 1.),
        'teacher.': (1., 1.)
    }
    for prefix, (lr_mult, decay_mult) in parts.items():
        for norm in (False, True):
            parameters = [
                value for name, value in other.named_parameters() if
                name.startswith(prefix) and is_norm(other, name) == norm
            ]
            if parameters:
                decay = settings['weight_decay'] * decay_mult
                separate.append(
                    kind(
                        parameters, **{
                            **settings, 'lr':
                            settings['lr'] * lr_mult,
                            'weight_decay':
                            decay * (decay_of_norms if norm else 1)
                        }))
    assert sum(
        len(group['params']) for one in separate
        for group in one.param_groups) == len(list(other.parameters()))

    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        inputs = torch.randn(
            4, 3, 8, 8, generator=generator, dtype=torch.float64)
        labels = BatchDataSample(
            gt_label=torch.randint(5, (4, ), generator=generator))
        loss, _ = cohort.parse_losses(cohort(inputs, labels, mode='loss'))
        wrapper.update_params(loss)
        loss, _ = other.parse_losses(other(inputs, labels, mode='loss'))
        other.zero_grad()
        loss.backward()
        for one in separate:
            one.step()
    torch.testing.assert_close(
        dict(cohort.state_dict()),
        dict(other.state_dict()),
        rtol=1e-9,
        atol=1e-12)


def test_names_are_matched_exactly():
    cohort = make(vgg=net(lr_mult=.1), vgg2=net(), net=net())
    found = rates(cohort, build(cohort))
    assert set(found) == {name for name, _ in cohort.named_parameters()}
    for name, values in found.items():
        expected = .1 * .1 if name.startswith('branches.vgg.') else .1
        assert values == pytest.approx((expected, .01))


def test_own_rules_are_multiplied():
    cohort = make(vgg=net(lr_mult=.5, decay_mult=2.), net=net())
    paramwise = dict(
        bias_lr_mult=3.,
        norm_decay_mult=0.,
        custom_keys={
            '.head': dict(lr_mult=10., decay_mult=5.),
            'branches.net.backbone.conv': dict(decay_mult=7.)
        })
    given = copy.deepcopy(paramwise)
    found = rates(cohort, build(cohort, paramwise_cfg=paramwise))
    plain = rates(
        cohort,
        build_optim_wrapper(
            cohort, dict(optimizer=SGD, paramwise_cfg=paramwise)))
    assert paramwise == given
    for name, (lr, decay) in plain.items():
        lr_mult, decay_mult = (.5, 2.) if '.vgg.' in name else (1., 1.)
        assert found[name] == pytest.approx((lr * lr_mult, decay * decay_mult))
    assert found['branches.vgg.head.fc.weight'] == pytest.approx((.5, .1))
    assert len(set(plain.values())) == 4


def test_few_groups_for_few_kernels():
    cohort = make(a=net(lr_mult=.5), b=net(lr_mult=.5), c=net(decay_mult=0))
    wrapper = build(cohort, dict(SGD, fused=True))
    groups = wrapper.optimizer.param_groups
    assert [(group['lr'], group['weight_decay'])
            for group in groups] == [(.05, .01), (.1, 0), (.1, .01)]
    assert all(group['fused'] for group in groups)
    # What MMEngine shows the learning rate by.
    assert wrapper.get_lr()['base_lr'] == [.1]


def test_merge_groups():
    groups = [
        dict(params=[1], lr=.1),
        dict(params=[2]),
        dict(params=[3], lr=.1),
        dict(params=[4], lr=.1, betas=[.9, .99]),
        dict(params=[5])
    ]
    given = copy.deepcopy(groups)
    assert merge_groups(groups) == [
        dict(params=[1, 3], lr=.1),
        dict(params=[2, 5]),
        dict(params=[4], lr=.1, betas=[.9, .99])
    ]
    assert groups == given


def test_frozen_branches_have_no_group():
    cohort = make(a=net(lr_mult=.5), fixed=net(frozen=True))
    names = set(rates(cohort, build(cohort)))
    assert names == {
        name
        for name, _ in cohort.named_parameters()
        if not name.startswith('branches.fixed.')
    }


@pytest.mark.parametrize('settings, optimizer, words', [
    (dict(decay_mult=2.), dict(type='SGD', lr=.1),
     'a.decay_mult is a factor of optim_wrapper.optimizer.weight_decay'),
    (dict(lr_mult=2.), dict(type='AdamW'),
     'a.lr_mult is a factor of optim_wrapper.optimizer.lr'),
])
def test_what_is_multiplied_must_be_stated(settings, optimizer, words):
    cohort = make(a=net(**settings), b=net())
    with pytest.raises(ConfigError, match=f'^model.branches.{words}, which'):
        build(cohort, optimizer)


def test_the_constructor_is_chosen_where_it_is_needed():
    plain = make(a=net(), b=net(lr_mult=1, decay_mult=1., loss_weight=3.))
    cfg = dict(optimizer=SGD)
    assert branch_factors(plain) == branch_factors(nn.Linear(1, 1)) == {}
    assert with_branch_constructor(cfg, plain) is cfg
    cohort = make(a=net(), b=net(lr_mult=.5))
    assert branch_factors(cohort) == dict(b=dict(lr_mult=.5))
    for given in (None, NAME, BranchOptimWrapperConstructor):
        found = with_branch_constructor(dict(cfg, constructor=given), cohort)
        assert found['constructor'] in (NAME, BranchOptimWrapperConstructor)
    assert with_branch_constructor(cfg, cohort) == dict(cfg, constructor=NAME)
    for given in ('LearningRateDecayOptimWrapperConstructor', 'None such'):
        with pytest.raises(
                ConfigError,
                match='^model.branches.b.lr_mult needs optim_wrapper'):
            with_branch_constructor(dict(cfg, constructor=given), cohort)


CHANGES = {
    'model.branches.vit.lr_mult': .25,
    'model.branches.vit.decay_mult': 2.,
    'optim_wrapper.optimizer.weight_decay': 1e-3,
}


@pytest.mark.parametrize('kind',
                         ['OptimWrapper', 'mcod_plugin.AutocastOptimWrapper'])
def test_runner(tiny_runner, kind):
    runner = tiny_runner(**CHANGES, **{'optim_wrapper.type': kind})
    seen = []
    step = runner.model.train_step

    def train_step(data, optim_wrapper):
        groups = optim_wrapper.optimizer.param_groups
        seen.append([group['lr'] for group in groups])
        return step(data, optim_wrapper)

    runner.model.train_step = train_step
    runner.train()
    assert kind.endswith(type(runner.optim_wrapper).__name__)
    first, second = runner.optim_wrapper.optimizer.param_groups
    assert first['weight_decay'] == 1e-3 and second['weight_decay'] == 2e-3
    assert set(second['params']) == set(
        runner.model.branches['vit'].parameters())
    # The scheduler keeps the ratio.
    assert len(seen) == 8 and len(set(map(tuple, seen))) == 2
    for one, other in seen:
        assert other == pytest.approx(.25 * one)


def test_runner_without_factors(tiny_runner):
    runner = tiny_runner(epochs=1)
    runner.train()
    assert len(runner.optim_wrapper.optimizer.param_groups) == 1


def test_model_in_a_wrapper():
    """As distributed training has it."""
    cohort = make(vgg=net(lr_mult=.5, decay_mult=2.), net=net())
    found = rates(cohort, build(nn.DataParallel(cohort)))
    assert found == rates(cohort, build(cohort))
    assert found['branches.vgg.head.fc.weight'] == pytest.approx((.05, .02))


def test_decay_of_zero_is_stated():
    cohort = make(a=net(decay_mult=2.), b=net())
    found = rates(cohort, build(cohort, dict(SGD, weight_decay=0)))
    assert set(found.values()) == {(.1, 0)}


def test_a_parameter_that_modules_share():
    """It is updated once a step."""

    class Net(nn.Module):

        def __init__(self):
            super().__init__()
            self.first = nn.Linear(3 * 8 * 8, 5)
            self.second = nn.Module()
            self.second.same = self.first

        def forward(self, images):
            return self.first(images.flatten(1))

    cohort = make(net=net(lr_mult=.5), tied=Net())
    wrapper = build(cohort, dict(type='SGD', lr=.1))
    values = [
        value for group in wrapper.optimizer.param_groups
        for value in group['params']
    ]
    assert len(values) == len({*map(id, values)}) == len(
        [*cohort.parameters()])
    weight = cohort.branches.tied.first.weight
    before = weight.detach().clone()
    for value in values:
        value.grad = torch.ones_like(value)
    wrapper.step()
    torch.testing.assert_close(weight, before - .1)
