"""One checkpoint, its parts, and the one again that is made of them."""
import copy

import pytest
import torch
from mmengine.optim import OptimWrapper
from mmengine.optim.scheduler import LinearLR, MultiStepLR

from mcod_plugin.engine.optim_wrapper import name_parameters
from mcod_plugin.engine.parallel.checkpoints import merged, own_part

NAMES = ['a', 'b', 'c']


def make_checkpoint(rates, by_parameter=False):
    """That of one process, after three steps."""
    torch.manual_seed(0)
    model = torch.nn.Module()
    model.branches = torch.nn.ModuleDict(
        {name: torch.nn.Linear(2, 3)
         for name in NAMES})
    model.teacher = torch.nn.Linear(1, 1)
    groups = {}
    for key, value in model.named_parameters():
        rate = rates.get(key.split('.')[1], .1)
        groups.setdefault(key if by_parameter else rate,
                          dict(params=[], lr=rate))['params'].append(value)
    optimizer = torch.optim.SGD(list(groups.values()), lr=.1, momentum=.9)
    name_parameters(optimizer, model)
    wrapper = OptimWrapper(optimizer)
    schedulers = [
        LinearLR(wrapper, start_factor=.5, end=2),
        MultiStepLR(wrapper, milestones=[2, 3])
    ]
    for _ in range(3):
        loss = sum(value.square().sum() for value in model.parameters())
        wrapper.update_params(loss)
        for scheduler in schedulers:
            scheduler.step()
    return dict(
        state_dict=model.state_dict(),
        optimizer=wrapper.state_dict(),
        param_schedulers=[scheduler.state_dict() for scheduler in schedulers])


def flat(value, path=''):
    """Leaves by path, numbers of tensors as lists."""
    if isinstance(value, torch.Tensor):
        return {path: value.tolist()}
    if isinstance(value, dict):
        pairs = value.items()
    elif isinstance(value, (list, tuple)):
        pairs = enumerate(value)
    else:
        return {path: value}
    found = {path: len(value)}
    for key, part in pairs:
        found.update(flat(part, f'{path}/{key}'))
    return found


@pytest.mark.parametrize('rates', [{}, dict(a=.2), dict(b=.2, c=.3)])
@pytest.mark.parametrize('shares',
                         [[['a', 'b', 'c']], [['a'], ['b', 'c']],
                          [['b'], ['a', 'c']], [['c'], ['b'], ['a']]])
def test_parts_make_the_whole(rates, shares):
    whole = make_checkpoint(rates)
    before = copy.deepcopy(whole)
    parts = [
        own_part(whole, [name for name in NAMES if name not in share])
        for share in shares
    ]
    for share, part in zip(shares, parts):
        names = [
            name for group in part['optimizer']['param_groups']
            for name in group['param_names']
        ]
        assert sorted(names) == sorted(part['state_dict'])
        assert {name.split('.')[1]
                for name in names} - {'weight', 'bias'} == set(share)
        assert len(part['optimizer']['state']) == len(names)
    found = merged(parts, NAMES)
    assert flat(found) == flat(whole) == flat(before)
    assert list(found['state_dict']) == list(whole['state_dict'])


def test_groups_of_single_parameters_become_one():
    """As MMEngine makes them with a ``paramwise_cfg``."""
    whole = make_checkpoint(dict(b=.2), by_parameter=True)
    found = merged([own_part(whole, ['b', 'c']),
                    own_part(whole, ['a'])], NAMES)
    few = make_checkpoint(dict(b=.2))
    assert flat(found) == flat(few)


def test_weights_alone_and_states_without_names():
    whole = make_checkpoint({})
    weights = dict(state_dict=whole['state_dict'])
    assert own_part(weights, ['a', 'b', 'c'])['state_dict'].keys() == {
        'teacher.weight', 'teacher.bias'
    }
    assert flat(
        merged([own_part(weights, ['a']),
                own_part(weights, ['b', 'c'])], NAMES)) == flat(weights)
    for group in whole['optimizer']['param_groups']:
        del group['param_names']
    # Whoever matches it by position tells that it does not fit.
    assert own_part(whole, ['a'])['optimizer'] is whole['optimizer']


def test_part_of_weights_only():
    """As files of others have them, and those of a wrapper."""
    weights = {f'branches.{name}.weight': name for name in NAMES}
    weights['teacher.weight'] = 'teacher'
    own = {
        key: value
        for key, value in weights.items() if value in ('b', 'teacher')
    }
    assert own_part(weights, ['a', 'c']) == own
    wrapped = {f'module.{key}': value for key, value in weights.items()}
    assert own_part(dict(state_dict=wrapped), ['a', 'c']) == dict(
        state_dict={f'module.{key}': value
                    for key, value in own.items()})
