import copy

import pytest
import torch
from mmengine.model import ExponentialMovingAverage

from mcod_plugin.errors import ConfigError
from mcod_plugin.registry import MODELS
from mcod_plugin.structures import BatchDataSample

HEAD = dict(type='LinearClsHead', num_classes=5)


def resnet(depth=8, **kwargs):
    return dict(
        backbone=dict(type='mcod_plugin.CifarResNet', depth=depth, width=4),
        head=dict(HEAD),
        **kwargs)


def make_cohort(seed=0, teacher=None, **branches):
    torch.manual_seed(seed)
    cohort = MODELS.build(
        dict(
            type='mcod_plugin.MultiBackboneClassifier',
            branches=copy.deepcopy(branches),
            teacher=teacher,
            input_size=32))
    cohort.init_weights()
    return cohort


def make_batch():
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(4, 3, 32, 32, generator=generator),
            BatchDataSample(gt_label=torch.tensor([0, 3, 1, 4])))


def clone(module):
    return {key: value.clone() for key, value in module.state_dict().items()}


def changed(module, before):
    return {
        key
        for key, value in module.state_dict().items()
        if not torch.equal(value, before[key])
    }


TEACHERS = [
    None,
    dict(type='mcod_plugin.EnsembleTeacher', members='fixed'),
    dict(type='mcod_plugin.EnsembleTeacher', leave_one_out=True),
    dict(type='mcod_plugin.GatedTeacher'),
]


@pytest.mark.parametrize('teacher', TEACHERS)
@pytest.mark.parametrize('optimizer', [
    dict(cls=torch.optim.SGD, momentum=.9),
    dict(cls=torch.optim.AdamW),
])
def test_nothing_moves(teacher, optimizer):
    cohort = make_cohort(
        teacher=teacher, fixed=resnet(frozen=True), net=resnet())
    fixed, net = cohort.branches.values()
    before, before_net = clone(fixed), clone(net)
    settings = dict(optimizer)
    optimizer = settings.pop('cls')(
        cohort.parameters(), lr=.1, weight_decay=.1, **settings)
    for kd_weight in (0., 1., 1.):
        cohort.train()
        assert not fixed.training and net.training
        assert not any(part.training for part in fixed.modules())
        cohort.kd_weight = kd_weight
        losses = cohort(*make_batch(), mode='loss')
        assert not any(key.startswith('fixed') for key in losses)
        assert ('net.loss_kd' in losses) == (kd_weight > 0)
        optimizer.zero_grad()
        cohort.parse_losses(losses)[0].backward()
        optimizer.step()
    assert not changed(fixed, before)
    assert all(value.grad is None for value in fixed.parameters())
    # the other one learned, its statistics included
    assert changed(net, before_net) == set(before_net)


def test_predicts_like_the_others():
    cohort = make_cohort(fixed=resnet(frozen=True), net=resnet())
    inputs, _ = make_batch()
    logits = cohort.branch_logits(inputs)
    assert not logits['fixed'].requires_grad and logits['net'].requires_grad
    torch.testing.assert_close(logits['fixed'],
                               cohort.branches['fixed'](inputs))
    cohort.eval()
    predictions = cohort(inputs, mode='predict')
    torch.testing.assert_close(
        torch.stack([sample.pred_score_fixed for sample in predictions]),
        logits['fixed'].softmax(1))
    torch.testing.assert_close(
        cohort(inputs),
        (cohort.branches['fixed'](inputs) + cohort.branches['net'](inputs)) /
        2)


def test_kd_is_that_of_the_teacher():
    """Traditional distillation: the one follows the frozen other."""
    cohort = make_cohort(
        teacher=TEACHERS[1], fixed=resnet(frozen=True),
        net=resnet()).double()
    cohort.kd_weight = .5
    inputs, samples = make_batch()
    inputs = inputs.double()
    losses = cohort(inputs, samples, mode='loss')
    logits = cohort.branch_logits(inputs)
    p, q = ((logits[name] / 3).softmax(1) for name in ('fixed', 'net'))
    expected = .5 * 9 * (p * (p / q).log()).sum(1).mean()
    assert losses['net.loss_kd'].item() == pytest.approx(
        expected.item(), rel=1e-9)


def test_copies_stay_frozen():
    cohort = make_cohort(fixed=resnet(frozen=True), net=resnet())
    for other in (copy.deepcopy(cohort),
                  ExponentialMovingAverage(cohort).module):
        other.train()
        assert not other.branches['fixed'].training
        assert not any(value.requires_grad
                       for value in other.branches['fixed'].parameters())
    assert cohort.train(False) is cohort and not cohort.training


def test_other_branches_start_the_same():
    free = make_cohort(fixed=resnet(), net=resnet())
    cohort = make_cohort(fixed=resnet(frozen=True), net=resnet())
    assert free.frozen == [] and cohort.frozen == ['fixed']
    assert not changed(cohort, clone(free))


@pytest.mark.parametrize('frozen', ['yes', 1, None])
def test_refused(frozen):
    with pytest.raises(
            ConfigError, match=r'^model.branches.a.frozen must be one of'):
        make_cohort(a=resnet(frozen=frozen), b=resnet())


def test_one_must_be_trained():
    with pytest.raises(ConfigError, match='trained; frozen are a, b$'):
        make_cohort(a=resnet(frozen=True), b=resnet(frozen=True))


# Weights


@pytest.fixture
def checkpoint(tmp_path):
    """That of a cohort, and what it was saved from."""
    cohort = make_cohort(seed=7, vgg=resnet(), other=resnet(14))
    path = tmp_path / 'epoch_2.pth'
    torch.save(
        dict(
            state_dict={
                **cohort.state_dict(), 'teacher.gate.bias': torch.ones(2)
            }), path)
    return str(path), cohort


def pretrained(path, prefix=None, **kwargs):
    cfg = dict(type='Pretrained', checkpoint=str(path), **kwargs)
    return cfg if prefix is None else dict(cfg, prefix=prefix)


@pytest.mark.parametrize('prefix', ['branches.vgg', 'branches.vgg.'])
@pytest.mark.parametrize('in_list', [False, True])
def test_weights_of_a_cohort(checkpoint, prefix, in_list):
    path, source = checkpoint
    init = pretrained(path, prefix)
    cohort = make_cohort(
        fixed=resnet(frozen=True, init_cfg=[init] if in_list else init),
        net=resnet())
    fixed, net = cohort.branches.values()
    assert not changed(fixed, clone(source.branches['vgg']))
    assert changed(net, clone(source.branches['vgg']))
    # what it took from the generator is what it takes anyway
    assert not changed(net, clone(
        make_cohort(a=resnet(), net=resnet()).branches['net']))


def test_weights_of_a_classifier(checkpoint, tmp_path):
    source = checkpoint[1].branches['vgg']
    for content in (dict(state_dict={
            f'module.{key}': value
            for key, value in source.state_dict().items()
    }), source.state_dict()):
        torch.save(content, tmp_path / 'alone.pth')
        init = pretrained(tmp_path / 'alone.pth')
        cohort = make_cohort(
            fixed=resnet(frozen=True, init_cfg=init), net=resnet())
        assert not changed(cohort.branches['fixed'], clone(source))


def test_weights_of_a_network_of_timm(tmp_path):
    timm = dict(type='TimmClassifier', model_name='test_resnet', num_classes=5)
    source = make_cohort(seed=7, a=timm, net=resnet())
    torch.save(source.state_dict(), tmp_path / 'cohort.pth')
    init = pretrained(tmp_path / 'cohort.pth', 'branches.a')
    cohort = make_cohort(
        fixed=dict(timm, frozen=True, init_cfg=init), net=resnet())
    assert not changed(cohort.branches['fixed'], clone(source.branches['a']))


@pytest.mark.parametrize('init, words', [
    (dict(prefix='branches.vg'), 'no key prefix branches.vg.'),
    (dict(prefix='branches.other'), 'under branches.other. adds backbone'),
    (dict(), 'lacks backbone head adds branches.vgg branches.other'),
    (dict(checkpoint='none.pth'), 'none.pth no such file'),
    (dict(checkpoint=3), 'init_cfg.checkpoint must be a path got 3'),
])
def test_weights_that_do_not_fit(checkpoint, init, words):
    init = {**pretrained(checkpoint[0]), **init}
    with pytest.raises(ConfigError) as info:
        make_cohort(fixed=resnet(frozen=True, init_cfg=init), net=resnet())
    message = str(info.value)
    assert message.startswith('model.branches.fixed.init_cfg')
    assert '\n' not in message
    for word in words.split():
        assert word in message


class Payload:
    """Leaves a file if it is executed."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, 'w')


def test_code_is_not_executed(tmp_path):
    torch.save(dict(state_dict=Payload(tmp_path / 'ran')), tmp_path / 'a.pth')
    with pytest.raises(ConfigError, match='init_cfg: checkpoint.*refused'):
        make_cohort(
            fixed=resnet(
                frozen=True, init_cfg=pretrained(tmp_path / 'a.pth')),
            net=resnet())
    assert not (tmp_path / 'ran').exists()


@pytest.mark.parametrize('part, frozen', [('backbone', []), ('', ['net'])])
def test_built_branch_that_is_frozen_in_part_is_trained(part, frozen):
    net = make_cohort(net=resnet()).branches['net']
    net.get_submodule(part).requires_grad_(False)
    cohort = make_cohort(net=net, other=resnet())
    assert cohort.frozen == frozen
    losses = cohort(*make_batch(), mode='loss')
    assert ('net.loss_ce' in losses) == (not frozen)
