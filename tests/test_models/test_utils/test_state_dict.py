import copy

import pytest
import timm
import torch
import torch.nn as nn
from mmpretrain.registry import MODELS

from mcod_plugin.models.utils.state_dict import name_keys_in_place


def make_wrapper():
    wrapper = MODELS.build(
        dict(
            type='TimmClassifier',
            model_name='test_vit',
            num_classes=5,
            loss=dict(
                type='CrossEntropyLoss', class_weight=[1., 2., 3., 4., 5.])))
    name_keys_in_place(wrapper)
    return wrapper


class Parent(nn.Module):

    def __init__(self):
        super().__init__()
        self.first = make_wrapper()
        self.second = make_wrapper()


@pytest.fixture
def plain():
    return timm.create_model('test_vit', num_classes=5)


def assert_equal(state_dict, other):
    assert list(state_dict) == list(other)
    for key, value in state_dict.items():
        assert torch.equal(value, other[key]), key


def test_the_toolbox_needs_it():
    """If this fails, the module under test is no longer needed."""
    parent = nn.Module()
    parent.child = MODELS.build(
        dict(type='TimmClassifier', model_name='test_vit'))
    saved = parent.state_dict()
    assert all(key.startswith('child.model.') for key in saved)
    with pytest.raises(RuntimeError):
        parent.load_state_dict(saved)


def test_keys_are_those_of_timm(plain):
    wrapper = make_wrapper()
    assert list(wrapper.state_dict()) == list(plain.state_dict())
    assert list(Parent().state_dict()) == [
        f'{name}.{key}' for name in ('first', 'second')
        for key in plain.state_dict()
    ]


def test_alone(plain):
    wrapper = make_wrapper()
    wrapper.load_state_dict(plain.state_dict())
    assert_equal(wrapper.model.state_dict(), plain.state_dict())
    plain.load_state_dict(make_wrapper().state_dict())


def test_nested():
    parent, other = Parent(), Parent()
    saved = copy.deepcopy(parent.state_dict())
    other.load_state_dict(saved)
    assert_equal(other.state_dict(), saved)
    # what is loaded is what was given
    assert_equal(parent.state_dict(), saved)


def test_faults_are_found():
    parent = Parent()
    saved = parent.state_dict()
    del saved['first.head.weight']
    saved['second.head.scale'] = torch.ones(1)
    result = parent.load_state_dict(saved, strict=False)
    assert result.missing_keys == ['first.model.head.weight']
    assert result.unexpected_keys == ['second.model.head.scale']


def test_deepcopy(plain):
    copied = copy.deepcopy(Parent())
    copied.load_state_dict(Parent().state_dict())
    copied.first.load_state_dict(plain.state_dict())
    assert_equal(copied.first.model.state_dict(), plain.state_dict())


def test_others_stay_as_they_are():
    net = nn.Linear(2, 3)
    hook = net._register_state_dict_hook(lambda *args: None)
    name_keys_in_place(net)
    assert list(net._state_dict_hooks) == [hook.id]
    assert not net._load_state_dict_pre_hooks
