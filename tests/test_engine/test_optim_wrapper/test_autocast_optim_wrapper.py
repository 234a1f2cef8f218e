import re
from contextlib import contextmanager

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import OPTIM_WRAPPERS

from mcod_plugin.engine.optim_wrapper import has_bfloat16, precision
from mcod_plugin.errors import ConfigError

NAME = 'mcod_plugin.AutocastOptimWrapper'

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available() and not has_bfloat16(),
    reason='the device has no bfloat16')


@pytest.fixture
def no_bfloat16(monkeypatch):
    """Takes the instructions for bfloat16 from the CPU."""
    if torch.cuda.is_available():
        pytest.skip('has a GPU')
    monkeypatch.setattr(
        torch.cpu,
        'get_capabilities',
        lambda: dict(avx2=True, avx512_f=True),
        raising=False)


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
    runner = tiny_runner(
        **{
            'optim_wrapper.type': NAME,
            'optim_wrapper.dtype': 'bfloat16',
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


def test_single_precision_on_a_cpu_without(tiny_runner, no_bfloat16, capsys):
    weights = {}
    for kind in ('OptimWrapper', NAME):
        runner = tiny_runner(kind, 1, **{'optim_wrapper.type': kind})
        runner.train()
        weights[kind] = runner.model.state_dict()
    assert precision(runner.optim_wrapper) == 'float32'
    for key, value in weights[NAME].items():
        assert torch.equal(value, weights['OptimWrapper'][key])
    line, = [
        line for line in capsys.readouterr().out.split('\n')
        if 'WARNING - Mixed precision' in line
    ]
    assert re.search(
        'this CPU has no instructions for bfloat16, so training is in '
        'float32; '
        r"optim_wrapper\.dtype='bfloat16' would have it emulated", line)


def test_emulated_where_it_is_asked_for(no_bfloat16, capsys):
    wrapper = build(dtype='bfloat16')
    with wrapper.optim_context(torch.nn.Identity()):
        assert torch.mm(torch.ones(2, 2), torch.ones(
            2, 2)).dtype == torch.bfloat16
    assert precision(wrapper) == 'bfloat16'
    assert capsys.readouterr().out.count(
        'no instructions for bfloat16, so it is emulated, as '
        'optim_wrapper.dtype asks for') == 1


@pytest.mark.parametrize('fp16', [True, False])
def test_evaluation_that_is_emulated_is_told(tiny_runner, no_bfloat16, fp16,
                                             capsys):
    runner = tiny_runner(**{'test_cfg.fp16': fp16, 'val_cfg.fp16': fp16})
    runner.test()
    runner.val()
    out = capsys.readouterr().out
    for setting in ('test_cfg.fp16', 'val_cfg.fp16'):
        assert out.count(f'{setting} (--amp): this CPU has no instr') == fp16


def test_another_precision_than_the_run_was_begun_in(tiny_runner, no_bfloat16,
                                                     capsys):
    first = {'optim_wrapper.type': NAME, 'optim_wrapper.dtype': 'bfloat16'}
    tiny_runner('run', 1, **first).train()
    for epochs, begun in ((2, 'bfloat16'), (3, 'bfloat16, float32')):
        capsys.readouterr()
        runner = tiny_runner(
            'run', epochs, resume=True, **{'optim_wrapper.type': NAME})
        runner.train()
        assert runner.epoch == epochs
        assert f'was trained in {begun} so far and goes on in float32' in (
            capsys.readouterr().out)
        assert runner.message_hub.get_info('precision') == 'bfloat16, float32'


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
