import copy

import pytest
import torch
from mmengine.optim import CosineAnnealingLR, MultiStepLR, OptimWrapper
from torch import nn

from mcod_plugin.engine.optim_wrapper import (arrange_parameters,
                                              changed_options,
                                              match_memory_formats,
                                              match_parameters,
                                              name_parameters)
from mcod_plugin.errors import ConfigError

LAST, FIRST = torch.channels_last, torch.contiguous_format
SIZES = dict(p=(3, 5), q=(5, 2), r=(2, 4))
SGD = (torch.optim.SGD, dict(momentum=.9, nesterov=True))
ADAMW = (torch.optim.AdamW, {})
OPTIMIZERS = [SGD, ADAMW, (torch.optim.RMSprop, {}), (torch.optim.Rprop, {})]
if hasattr(torch.optim, 'Adafactor'):
    # What it keeps is of other shapes than the parameters.
    OPTIMIZERS.append((torch.optim.Adafactor, {}))


def make(order, optimizer=SGD, grouped=False, lr=.1, **kwargs):
    """A model whose parts have other learning rates, and its optimizer: with
    a group for each parameter or, without other rates, one for all."""
    model = nn.ModuleDict(
        {name: nn.Linear(*SIZES[name], dtype=torch.float64)
         for name in order})
    for index, name in enumerate(sorted(SIZES)):
        generator = torch.Generator().manual_seed(index)
        for value in model[name].parameters() if name in model else ():
            value.data.copy_(
                torch.randn(
                    value.shape, generator=generator, dtype=torch.float64))
    groups = [
        dict(params=[value], lr=lr * 'pqr'.index(name[0]) + lr)
        for name, value in model.named_parameters()
    ] if grouped else model.parameters()
    kind, settings = optimizer
    optimizer = kind(groups, lr=lr, **settings, **kwargs)
    name_parameters(optimizer, model)
    return model, OptimWrapper(optimizer)


def step(model, wrapper, seed):
    for name, value in model.named_parameters():
        generator = torch.Generator().manual_seed(100 * seed +
                                                  sum(name.encode()) % 97)
        value.grad = torch.randn(
            value.shape, generator=generator, dtype=torch.float64).to(value)
    wrapper.step()


def restore(wrapper, saved, kind=None):
    found = match_parameters(wrapper.optimizer, saved, kind)
    arrange_parameters(wrapper, saved, found)
    wrapper.load_state_dict(saved)
    return found


def schedule(wrapper):
    return [
        CosineAnnealingLR(wrapper, end=5, eta_min=.01),
        MultiStepLR(wrapper, milestones=[2, 4], gamma=.5, end=5)
    ]


@pytest.mark.parametrize('optimizer', OPTIMIZERS)
@pytest.mark.parametrize('grouped, now_grouped', [(False, False), (True, True),
                                                  (True, False),
                                                  (False, True)])
def test_restored_in_another_order(optimizer, grouped, now_grouped):
    model, wrapper = make('pqr', optimizer, grouped)
    schedulers = schedule(wrapper)
    other, its_wrapper = make('rpq', optimizer, now_grouped)
    its_schedulers = schedule(its_wrapper)
    for seed in range(3):
        step(model, wrapper, seed)
        for scheduler in schedulers:
            scheduler.step()
    state = copy.deepcopy(wrapper.state_dict())
    other.load_state_dict(model.state_dict())
    restore(its_wrapper, state)
    for scheduler, saved in zip(its_schedulers, schedulers):
        scheduler.load_state_dict(copy.deepcopy(saved.state_dict()))
    for seed in range(3, 5):
        for one, its, steps in ((model, wrapper, schedulers),
                                (other, its_wrapper, its_schedulers)):
            step(one, its, seed)
            for scheduler in steps:
                scheduler.step()
    their = other.state_dict()
    for key, value in model.state_dict().items():
        assert torch.equal(value, their[key])
    for groups in zip(wrapper.param_groups, its_wrapper.param_groups):
        assert groups[0]['lr'] == groups[1]['lr']
    assert its_wrapper.get_lr() == wrapper.get_lr()
    assert its_wrapper.state_dict().keys() == wrapper.state_dict().keys()


def test_names_are_those_of_the_model():
    model, wrapper = make('qp', grouped=True)
    assert [group['param_names']
            for group in wrapper.optimizer.param_groups] == [['q.weight'],
                                                             ['q.bias'],
                                                             ['p.weight'],
                                                             ['p.bias']]


def test_parameters_of_something_else_have_no_names():
    model, _ = make('qp')
    own = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([*model.parameters(), own], lr=1.)
    name_parameters(optimizer, model)
    group, = optimizer.param_groups
    assert 'param_names' not in group
    # They are restored as they were before there were names.
    own.sum().backward()
    optimizer.step()
    wrapper = OptimWrapper(optimizer)
    restore(wrapper, copy.deepcopy(wrapper.state_dict()), 'SGD')
    group, = optimizer.param_groups
    assert group['params'][-1] is own and 'param_names' not in group


def saved(order='pq', optimizer=SGD, **kwargs):
    model, wrapper = make(order, optimizer, **kwargs)
    step(model, wrapper, 0)
    return copy.deepcopy(wrapper.state_dict())


@pytest.mark.parametrize('order, words', [
    ('p', r'it adds q \(2 keys such as q\.bias\)'),
    ('pqr', r'it lacks r \(2 keys such as r\.bias\)'),
    ('pr', 'it lacks r .*; it adds q '),
])
@pytest.mark.parametrize('grouped', [False, True])
def test_other_parameters(order, words, grouped):
    _, wrapper = make(order, grouped=grouped)
    before = copy.deepcopy(wrapper.state_dict())
    with pytest.raises(
            ConfigError,
            match='^the state of its optimizer is of other parameters: '
            f'{words}'
    ):
        match_parameters(wrapper.optimizer, saved())
    assert wrapper.state_dict() == before


def test_names_that_are_no_names():
    """Of one for two parameters it cannot be told which is which."""
    state = saved()
    state['param_groups'][0]['param_names'] = ['p.weight'] * 4
    _, wrapper = make('qp')
    with pytest.raises(ConfigError, match='does not fit: momentum_buffer'):
        match_parameters(wrapper.optimizer, state)


@pytest.mark.parametrize('optimizer', [SGD, ADAMW])
def test_other_shapes(optimizer):
    """They would be read beyond their end by a kernel that is fused."""
    if 'fused' not in optimizer[0]([torch.ones(1)], lr=1.).defaults:
        pytest.skip('this PyTorch does not fuse it')
    state = saved(optimizer=optimizer)
    key = next(key for key, value in state['state'][0].items()
               if value is not None and value.ndim)
    state['state'][0][key] = torch.ones(1)
    _, wrapper = make('qp', optimizer)
    with pytest.raises(
            ConfigError,
            match=rf'{key} of p\.weight is of shape \(1,\) instead of '
            r'\(5, 3\)'):
        match_parameters(wrapper.optimizer, state)


@pytest.mark.parametrize('kind, words', [
    ('AdamW', 'by the optimizer AdamW, not by '
     r'optim_wrapper\.optimizer\.type, SGD'),
    (None, r'by another optimizer than optim_wrapper\.optimizer\.type, SGD: '
     'it lacks dampening, momentum, nesterov'),
])
def test_another_class(kind, words):
    _, wrapper = make('pq')
    with pytest.raises(ConfigError, match=f'^it was saved {words}$'):
        match_parameters(wrapper.optimizer, saved(optimizer=ADAMW), kind)


def test_adam_is_not_adamw():
    state = saved(optimizer=(torch.optim.Adam, {}))
    _, wrapper = make('pq', ADAMW)
    with pytest.raises(ConfigError, match='the optimizer Adam, not .*AdamW'):
        match_parameters(wrapper.optimizer, state, 'Adam')
    if 'decoupled_weight_decay' in wrapper.optimizer.defaults:
        with pytest.raises(ConfigError, match='lacks decoupled_weight_decay'):
            match_parameters(wrapper.optimizer, state)


def test_options_that_older_versions_lack():
    state = saved()
    for group in state['param_groups']:
        for key in ('maximize', 'foreach', 'differentiable', 'fused'):
            group.pop(key, None)
    model, wrapper = make('qp')
    restore(wrapper, state)
    step(model, wrapper, 1)


def test_how_an_update_is_computed_is_a_matter_of_this_machine():
    state = saved(foreach=True)
    _, wrapper = make('qp', foreach=False)
    restore(wrapper, state)
    group, = wrapper.optimizer.param_groups
    assert group['foreach'] is False


def test_changed_options():
    state = saved(weight_decay=.1)
    _, wrapper = make('qp', grouped=True, weight_decay=.2)
    found = match_parameters(wrapper.optimizer, state)
    assert changed_options(state, found) == [
        'weight_decay 0.1 instead of 0.2 (4 parameters such as p.weight)',
        'lr 0.1 instead of 0.2 (2 parameters such as q.weight)'
    ]
    # What a schedule has made of the learning rate is no change.
    model, wrapper = make('pq')
    schedulers = schedule(wrapper)
    step(model, wrapper, 0)
    for scheduler in schedulers:
        scheduler.step()
    state = copy.deepcopy(wrapper.state_dict())
    _, wrapper = make('qp')
    schedule(wrapper)
    assert state['param_groups'][0]['lr'] != .1
    found = match_parameters(wrapper.optimizer, state)
    assert changed_options(state, found) == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_scaled_loss():
    from mmengine.optim import AmpOptimWrapper
    model, wrapper = make('pqr', grouped=True)
    other, its_wrapper = make('rpq')
    wrapper, its_wrapper = (
        AmpOptimWrapper(optimizer=one.optimizer, loss_scale=512.)
        for one in (wrapper, its_wrapper))
    step(model.cuda(), wrapper.optimizer, 0)
    other.cuda()
    state = copy.deepcopy(wrapper.state_dict())
    restore(its_wrapper, state)
    assert [group['lr'] for group in its_wrapper.optimizer.param_groups
            ] == [group['lr'] for group in wrapper.optimizer.param_groups]
    assert 'base_param_settings' in its_wrapper.state_dict()


@pytest.mark.parametrize('optimizer, settings', [
    (torch.optim.SGD, dict(momentum=.9, fused=True)),
    (torch.optim.AdamW, dict(fused=True)),
    (torch.optim.SGD, dict(momentum=.9, foreach=True)),
    (torch.optim.AdamW, dict(amsgrad=True)),
])
def test_match_memory_formats(optimizer, settings):
    """A step after another format is that of the same format."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 3, 5, 5), (7, ), (4, 6), (8, 4, 1, 1)]
    values, *gradients = [[
        torch.randn(shape, generator=generator) for shape in shapes
    ] for _ in range(3)]

    def in_format(tensors, layout):
        return [
            tensor.clone(memory_format=layout if tensor.ndim == 4 else FIRST)
            for tensor in tensors
        ]

    def step(values, gradients, layout, state=None):
        parameters = [
            nn.Parameter(value) for value in in_format(values, layout)
        ]
        for parameter, grad in zip(parameters, in_format(gradients, layout)):
            parameter.grad = grad
        updater = optimizer(parameters, lr=.1, **settings)
        if state is not None:
            updater.load_state_dict(copy.deepcopy(state))
            match_memory_formats(updater)
            for parameter in parameters:
                for name, value in updater.state[parameter].items():
                    if name != 'step':
                        assert value.stride() == parameter.stride()
        updater.step()
        return ([parameter.detach()
                 for parameter in parameters], updater.state_dict())

    for source, target in ((FIRST, LAST), (LAST, FIRST)):
        first, state = step(values, gradients[0], source)
        expected, _ = step(first, gradients[1], source, state)
        found, _ = step(first, gradients[1], target, state)
        for value, other in zip(found, expected):
            torch.testing.assert_close(value, other)


def test_match_memory_formats_keeps_what_fits():
    parameter = nn.Parameter(torch.randn(4, 3, 5, 5))
    parameter.grad = torch.randn(4, 3, 5, 5)
    optimizer = torch.optim.AdamW([parameter], lr=.1)
    optimizer.step()
    before = dict(optimizer.state[parameter])
    match_memory_formats(optimizer)
    for key, value in optimizer.state[parameter].items():
        assert value is before[key]
