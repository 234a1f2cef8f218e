import copy

import pytest
import torch

from mcod_plugin.errors import ConfigError
from mcod_plugin.models.utils.recompute import recomputed
from mcod_plugin.registry import MODELS
from mcod_plugin.structures import BatchDataSample


def cohort(**changes):
    """Batch norm, dropout and random depth, in two branches."""
    torch.manual_seed(0)
    cfg = dict(
        type='mcod_plugin.MultiBackboneClassifier',
        branches=dict(
            resnet=dict(
                backbone=dict(type='mcod_plugin.CifarResNet', depth=8,
                              width=4),
                head=dict(type='LinearClsHead', num_classes=4)),
            vit=dict(
                backbone=dict(
                    type='TIMMBackbone',
                    model_name='mobilenetv3_small_050',
                    features_only=True,
                    drop_path_rate=.5),
                neck=[
                    dict(type='GlobalAveragePooling'),
                ],
                head=dict(type='LinearClsHead', num_classes=4))),
        data_preprocessor=dict(mean=[0] * 3, std=[1] * 3),
        input_size=32)
    cfg.update(changes)
    model = MODELS.build(cfg)
    model.kd_weight = 1.
    return model.train()


def step(model, seed=0):
    """Gradients and buffers after two steps."""
    torch.manual_seed(seed)
    inputs = torch.randn(6, 3, 32, 32)
    samples = BatchDataSample(gt_label=torch.arange(6) % 4)
    for _ in range(2):
        total, _ = model.parse_losses(model.loss(inputs, samples))
        total.backward()
    found = {
        f'{key}.grad': value.grad
        for key, value in model.named_parameters()
    }
    return {**found, **dict(model.named_buffers())}


def assert_equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        if value is None:
            assert theirs[key] is None, key
        else:
            assert torch.equal(value, theirs[key]), key


@pytest.mark.parametrize('changes', [
    {},
    dict(distill=dict(type='mcod_plugin.FeatureKDLoss')),
])
def test_the_same_bit_by_bit(changes):
    expected = step(cohort(**changes))
    assert all(value.any() for key, value in expected.items()
               if key.endswith('.grad') and value is not None)
    assert sum(value is not None for value in expected.values()) > 20
    assert_equal(step(cohort(recompute=True, **changes)), expected)


def saved_bytes(model):
    """What the forward pass keeps for the backward pass."""
    sizes = {}

    def pack(value):
        sizes[value.data_ptr()] = value.numel() * value.element_size()
        return value

    parameters = {value.data_ptr() for value in model.parameters()}
    inputs = torch.randn(6, 3, 32, 32)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        logits = model.branch_logits(inputs)
    assert all(value.requires_grad for value in logits.values())
    return sum(size for key, size in sizes.items() if key not in parameters)


def test_memory():
    whole, less = saved_bytes(cohort()), saved_bytes(cohort(recompute=True))
    # Nothing but the images of each branch.
    assert less <= 2 * 6 * 3 * 32 * 32 * 4 < whole / 10


def test_one_branch():
    branches = copy.deepcopy(cohort_branches())
    branches['vit']['recompute'] = True
    model = cohort(branches=branches)
    assert [
        settings.recompute for settings in model.branch_settings.values()
    ] == [False, True]
    branches['vit']['recompute'] = False
    model = cohort(branches=branches, recompute=True)
    assert [
        settings.recompute for settings in model.branch_settings.values()
    ] == [True, False]


def cohort_branches():
    return {
        name: dict(
            backbone=dict(type='mcod_plugin.CifarResNet', depth=8, width=4),
            head=dict(type='LinearClsHead', num_classes=4))
        for name in ('resnet', 'vit')
    }


def test_no_gradient_no_second_pass():
    model = cohort(recompute=True).eval()
    with torch.no_grad():
        logits = model.branch_logits(torch.randn(2, 3, 32, 32))
    assert not any(value.requires_grad for value in logits.values())


@pytest.mark.parametrize('value', [None, 'yes', 2])
def test_mistakes(value):
    with pytest.raises(ConfigError, match='model.recompute'):
        cohort(recompute=value)


class Mean(torch.nn.Module):
    """Puts a new tensor in the place of a buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer('mean', torch.zeros(3))
        self.weight = torch.nn.Parameter(torch.ones(3))

    def forward(self, x):
        self.mean = .9 * self.mean + .1 * x.detach().mean(0)
        return (x - self.mean) * self.weight


def test_buffer_that_is_replaced():
    found = []
    for call in (lambda module, x: module(x),
                 lambda module, x: recomputed(module, module, x)):
        torch.manual_seed(0)
        module = Mean()
        for _ in range(3):
            call(module, torch.randn(4, 3)).square().sum().backward()
        found.append((module.mean, module.weight.grad))
    for ours, theirs in zip(*found):
        assert torch.equal(ours, theirs)
