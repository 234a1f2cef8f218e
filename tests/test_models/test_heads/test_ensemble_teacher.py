import pytest
import torch

from mcod_plugin.errors import ConfigError
from mcod_plugin.models.heads import EnsembleTeacher
from mcod_plugin.models.heads.fusion import (confident_logits, mean_logits,
                                             mean_probabilities, min_logits)
from mcod_plugin.registry import MODELS


def build(**kwargs):
    return MODELS.build(dict(type='mcod_plugin.EnsembleTeacher', **kwargs))


def make_logits(num=3, dtype=torch.double):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(num, 4, 5, generator=generator, dtype=dtype) * 3
    return {f'net{i}': value for i, value in enumerate(logits)}


@pytest.mark.parametrize('fusion', ['mean', 'prob_mean'])
def test_targets(fusion):
    """Every branch has the ensemble for its target, without gradient."""
    teacher = build(fusion=fusion)
    logits = {
        name: value.requires_grad_()
        for name, value in make_logits().items()
    }
    targets = teacher(logits)
    assert list(targets) == list(logits)
    ensemble = teacher.ensemble(logits)
    assert ensemble.requires_grad
    for target in targets.values():
        assert not target.requires_grad
        assert torch.equal(target, ensemble)


@pytest.mark.parametrize('fusion', ['mean', 'prob_mean'])
@pytest.mark.parametrize('dtype', [torch.float, torch.double])
def test_dtype_is_kept(fusion, dtype):
    assert build(fusion=fusion).ensemble(make_logits(
        dtype=dtype)).dtype == dtype


def test_default_and_repr():
    teacher = build()
    assert isinstance(teacher, EnsembleTeacher) and teacher.fusion == 'mean'
    assert repr(teacher) == "EnsembleTeacher(fusion='mean')"
    assert not teacher.state_dict()


@pytest.mark.parametrize('fusion', ['median', None, 3])
def test_refused(fusion):
    with pytest.raises(ConfigError) as info:
        build(fusion=fusion)
    assert str(info.value) == (
        'model.teacher.fusion must be one of confidence, mean, min_logit, '
        f'prob_mean; got {fusion!r}')


# Fusions that need labels


@pytest.mark.parametrize('fusion, rule', [('min_logit', min_logits),
                                          ('confidence', confident_logits)])
@pytest.mark.parametrize('soft', [False, True])
def test_targets_by_labels(fusion, rule, soft):
    teacher = build(fusion=fusion)
    assert teacher.needs_labels
    logits = {
        name: value.requires_grad_()
        for name, value in make_logits().items()
    }
    labels = torch.eye(5, dtype=torch.double)[[3, 0, 4, 1]]
    if soft:
        labels = .7 * labels + .3 * labels.roll(1, 0)
    targets = teacher(logits, labels)
    assert list(targets) == list(logits)
    expected = rule(list(logits.values()), labels)
    for target in targets.values():
        assert target is targets['net0'] and not target.requires_grad
        assert torch.equal(target, expected)
    # a prediction knows no labels
    assert torch.equal(
        teacher.ensemble(logits), mean_logits(list(logits.values())))


def test_the_others_need_no_labels():
    assert not build().needs_labels
    assert not build(fusion='prob_mean').needs_labels


# Members, weights and leaving one out


RULES = [('mean', mean_logits), ('prob_mean', mean_probabilities)]


@pytest.mark.parametrize('fusion, rule', RULES)
def test_weights(fusion, rule):
    logits = make_logits()
    values = list(logits.values())
    teacher = build(fusion=fusion, weights=dict(net2=3, net0=0))
    teacher.setup(list(logits), 5)
    # net1 is not named and counts 1
    expected = rule(values, [0, 1, 3])
    assert torch.equal(teacher.ensemble(logits), expected)
    assert torch.equal(teacher(logits)['net0'], expected)
    torch.testing.assert_close(
        build(fusion=fusion, weights={}).ensemble(logits),
        build(fusion=fusion).ensemble(logits))


@pytest.mark.parametrize('fusion, rule', RULES)
def test_leave_one_out(fusion, rule):
    logits = make_logits()
    a, b, c = logits.values()
    teacher = build(fusion=fusion, leave_one_out=True)
    targets = teacher(logits)
    for name, others in dict(net0=[b, c], net1=[a, c], net2=[a, b]).items():
        assert torch.equal(targets[name], rule(others))
    assert torch.equal(teacher.ensemble(logits), rule([a, b, c]))


def test_leave_one_out_of_two_is_the_other():
    logits = make_logits(2)
    targets = build(leave_one_out=True)(logits)
    assert torch.equal(targets['net0'], logits['net1'])
    assert torch.equal(targets['net1'], logits['net0'])


def test_leave_one_out_by_confidence():
    logits = make_logits()
    labels = torch.eye(5, dtype=torch.double)[:4]
    targets = build(fusion='confidence', leave_one_out=True)(logits, labels)
    assert torch.equal(targets['net1'],
                       confident_logits([logits['net0'], logits['net2']],
                                        labels))


def test_weights_and_leave_one_out():
    logits = make_logits()
    a, b, c = logits.values()
    teacher = build(leave_one_out=True, weights=dict(net0=2., net1=3.))
    targets = teacher(logits)
    torch.testing.assert_close(targets['net0'], (3 * b + c) / 4)
    torch.testing.assert_close(targets['net1'], (2 * a + c) / 3)
    torch.testing.assert_close(targets['net2'], (2 * a + 3 * b) / 5)


def test_members():
    logits = make_logits()
    a, b, c = logits.values()
    teacher = build(members=('net0', 'net2'))
    teacher.setup(list(logits), 5)
    targets = teacher(logits)
    assert list(targets) == list(logits)
    for target in targets.values():
        assert target is targets['net0']
        assert torch.equal(target, (a + c) / 2)
    # the prediction is of all
    assert torch.equal(
        teacher.ensemble(logits), mean_logits(list(logits.values())))


@pytest.mark.parametrize('members', ['net1', ['net1']])
@pytest.mark.parametrize('leave_one_out', [False, True])
def test_the_only_member_has_no_target(members, leave_one_out):
    logits = make_logits()
    teacher = build(members=members, leave_one_out=leave_one_out)
    targets = teacher(logits)
    assert list(targets) == ['net0', 'net2']
    for target in targets.values():
        assert torch.equal(target, logits['net1'])


def test_members_and_leave_one_out():
    logits = make_logits()
    a, b, c = logits.values()
    targets = build(members=['net0', 'net1'], leave_one_out=True)(logits)
    assert torch.equal(targets['net0'], b)
    assert torch.equal(targets['net1'], a)
    assert torch.equal(targets['net2'], (a + b) / 2)


def test_repr_of_settings():
    assert repr(build(members='a', weights=dict(a=2), leave_one_out=True)) == (
        "EnsembleTeacher(fusion='mean', weights={'a': 2.0}, "
        "leave_one_out=True, members=['a'])")


@pytest.mark.parametrize('setting, value', [
    ('members', []),
    ('members', ()),
    ('members', ['a', 'a']),
    ('members', 3),
    ('members', [1]),
    ('leave_one_out', 'yes'),
    ('weights', [1, 2]),
    ('weights.a', dict(a=-1)),
    ('weights.a', dict(a='1')),
])
def test_refused_setting(setting, value):
    with pytest.raises(ConfigError, match=f'^model.teacher.{setting} must'):
        build(**{setting.partition('.')[0]: value})


@pytest.mark.parametrize('fusion', ['min_logit', 'confidence'])
def test_no_weights_with_fusions_by_labels(fusion):
    with pytest.raises(ConfigError, match=f'weights.*mean.*{fusion}'):
        build(fusion=fusion, weights=dict(a=1))


@pytest.mark.parametrize('setting, value', [('members', ['resnet', 'vg']),
                                            ('weights', dict(vg=1))])
def test_unknown_branch(setting, value):
    teacher = build(**{setting: value})
    with pytest.raises(ConfigError) as info:
        teacher.setup(['resnet', 'vgg'], 5)
    assert str(info.value) == (
        f"model.teacher.{setting} names 'vg', which is no branch of resnet, "
        'vgg; did you mean vgg?')


@pytest.mark.parametrize('settings', [
    dict(weights=dict(a=0, b=0, c=0)),
    dict(weights=dict(b=0, c=0), leave_one_out=True),
    dict(weights=dict(a=0), members=['a']),
])
def test_weights_of_zero(settings):
    with pytest.raises(ConfigError, match='model.teacher.weights must not'):
        build(**settings).setup(['a', 'b', 'c'], 5)
    build(**dict(settings, weights=dict(a=1))).setup(['a', 'b', 'c'], 5)


def test_leave_one_out_needs_two():
    with pytest.raises(ConfigError, match='leave_one_out needs.*; got a$'):
        build(leave_one_out=True).setup(['a'], 5)


@pytest.mark.parametrize('fusion', ['mean', 'prob_mean'])
def test_all_with_a_weight_are_left_out(fusion):
    """The others predict, and nobody teaches."""
    logits = dict(a=torch.randn(3, 5), b=torch.zeros(3, 5))
    alive = dict(a=torch.tensor(True), b=torch.tensor(False))
    teacher = build(fusion=fusion, weights=dict(a=0))
    torch.testing.assert_close(
        teacher.ensemble(logits, alive=alive).softmax(1),
        logits['a'].softmax(1))
    targets = teacher(logits, alive=alive)
    assert targets['a'].isnan().all() and targets['b'].isnan().all()
    alive['b'] = torch.tensor(True)
    assert torch.equal(teacher(logits, alive=alive)['a'].softmax(1),
                       logits['b'].softmax(1))
