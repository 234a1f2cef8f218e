from contextlib import contextmanager

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import OPTIM_WRAPPERS

from mcod_plugin.engine.optim_wrapper import has_bfloat16
from mcod_plugin.errors import ConfigError

NAME = 'mcod_plugin.AutocastOptimWrapper'

pytestmark = pytest.mark.skipif(
    not has_bfloat16(), reason='the device has no bfloat16')


def build(**settings):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    return OPTIM_WRAPPERS.build(
        dict(type=NAME, optimizer=optimizer, **settings))


class Probe(Hook):
    """Notes the types of what a step computes."""

    def __init__(self):
        self.convolved, self.losses, self.gradients = set(), set(), set()

    def before_train(self, runner):
        for branch in runner.model.branches.values():
            for module in branch.modules():
                if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
                    module.register_forward_hook(self.note)
        for value in runner.model.parameters():
            value.register_hook(lambda grad: self.gradients.add(grad.dtype))

    def note(self, module, args, output):
        if module.training:
            self.convolved.add(output.dtype)

    def after_train_iter(self, runner, batch_idx, data_batch, outputs):
        self.losses |= {value.dtype for value in outputs.values()}


@pytest.mark.parametrize('optimizer', ['SGD', 'AdamW'])
def test_only_the_forward_pass_is_in_bfloat16(tiny_runner, optimizer):
    optimizer = dict(type=optimizer, lr=0.05, _delete_=True)
    runner = tiny_runner(**{
        'optim_wrapper.type': NAME,
        'optim_wrapper.optimizer': optimizer
    })
    probe = Probe()
    runner.register_hook(probe)
    runner.train()
    assert probe.convolved == {torch.bfloat16}
    assert probe.losses == probe.gradients == {torch.float32}
    assert {value.dtype for value in runner.model.parameters()
            } == {torch.float32}
    state = runner.optim_wrapper.optimizer.state.values()
    assert {value.dtype
            for values in state for value in values.values()
            if value is not None} <= {torch.float32}
    assert runner.message_hub.get_scalar('train/loss').current() < 6


def test_gradients_accumulate(tiny_runner):
    runner = tiny_runner(
        epochs=1, **{
            'optim_wrapper.type': NAME,
            'optim_wrapper.accumulative_counts': 3
        })
    weights = []

    class Weights(Hook):

        def after_train_iter(self, runner, **kwargs):
            weight = runner.model.branches.resnet.head.fc.weight
            weights.append(weight.detach().clone())

    runner.register_hook(Weights())
    runner.train()
    # An update after three steps, and after the last one.
    assert [torch.equal(weights[0], weight) for weight in weights] == [
        True, True, False, False
    ]
    assert not torch.equal(weights[2], weights[3])


@pytest.mark.parametrize('dtype', ['bfloat16', torch.bfloat16])
def test_dtype(dtype):
    with build(dtype=dtype).optim_context(torch.nn.Identity()):
        assert torch.mm(torch.ones(2, 2), torch.ones(
            2, 2)).dtype == torch.bfloat16
    assert torch.mm(torch.ones(2, 2), torch.ones(2, 2)).dtype == torch.float32


@pytest.mark.parametrize('dtype', ['float16', torch.float16, 'float32', None])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(
            ConfigError,
            match=r'optim_wrapper\.dtype must be bfloat16; got .*float16 use '
            'AmpOptimWrapper'):
        build(dtype=dtype)


def test_amp_of_mmengine_needs_a_gpu(tiny_runner):
    if torch.cuda.is_available():
        pytest.skip('has a GPU')
    runner = tiny_runner(**{'optim_wrapper.type': 'AmpOptimWrapper'})
    with pytest.raises(
            ConfigError,
            match=r'optim_wrapper\.type AmpOptimWrapper needs a GPU.*'
            'mcod_plugin.AutocastOptimWrapper'):
        runner.train()


class Synchronised(torch.nn.Identity):
    """Has what DistributedDataParallel has."""

    @contextmanager
    def no_sync(self):
        self.off = True
        yield
        self.off = False


def test_gradients_are_not_synchronised_while_they_accumulate():
    model, wrapper = Synchronised(), build(accumulative_counts=2)
    parameter, = wrapper.param_groups[0]['params']
    seen = []
    for _ in range(4):
        model.off = False
        with wrapper.optim_context(model):
            seen.append(model.off)
        wrapper.update_params(parameter.sum())
    assert seen == [True, False, True, False]
