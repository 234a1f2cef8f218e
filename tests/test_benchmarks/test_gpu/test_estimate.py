"""The estimate's counts, against those that can be made by hand."""
import runpy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

PATH = Path(__file__).parents[3] / 'benchmarks' / 'gpu' / 'estimate.py'


@pytest.fixture(scope='module')
def estimate():
    return runpy.run_path(str(PATH))


def test_kernels_and_bytes_of_a_linear_layer(estimate):
    x = torch.rand(3, 4)
    weight = torch.rand(5, 4, requires_grad=True)
    with estimate['KernelCounter']() as counter:
        # The transposed weight is a view.
        out = x @ weight.t()
    assert counter.kernels == 1
    assert counter.bytes == 4 * (3 * 4 + 5 * 4 + 3 * 5)
    with estimate['KernelCounter']() as counter:
        out.sum().backward()
    # sum, ones for its gradient, and the product for that of the weight;
    # that of x is not needed, and expanding is a view.
    assert counter.kernels == 3
    assert counter.bytes == 4 * ((15 + 1) + 2 * 1 + (3 * 4 + 3 * 5 + 5 * 4))


@pytest.mark.parametrize('first', [False, True])
@pytest.mark.parametrize('groups, rate', [(1, 350e12 * (4 / 128)**.9),
                                          (2, 8e12)])
def test_kernels_of_a_convolution(estimate, first, groups, rate):
    x = torch.rand(2, 4, 8, 8, requires_grad=not first)
    weight = torch.rand(6, 4 // groups, 3, 3, requires_grad=True)
    sizes = [4 * 2 * 4 * 64, 4 * 6 * 4 // groups * 9, 4 * 2 * 6 * 64]
    with estimate['KernelCounter']() as counter:
        out = F.relu(F.conv2d(x, weight, padding=1, groups=groups))
    convolution, _ = counter.found
    assert convolution.bytes == sum(sizes)
    # A product and a sum for each output and each element of its filter.
    work = 2 * 2 * 6 * 64 * 4 // groups * 9 / rate
    assert convolution.work == pytest.approx(work)
    gradient = torch.rand_like(out)
    with estimate['KernelCounter']() as counter:
        out.backward(gradient)
    # ReLU, and the convolution for the images, if there is something before
    # it, and for the weight.
    _, *found = counter.found
    assert [kernel.bytes for kernel in found] == [sum(sizes)] * (2 - first)
    shares = [.6] if first else [.8, .6]
    assert [kernel.work for kernel in found
            ] == pytest.approx([work / share for share in shares])


def test_batch_norm_reads_twice(estimate):
    x = torch.rand(64, 5, 8, 8, requires_grad=True)
    weight, bias = torch.ones(5), torch.zeros(5)
    whole = x.numel() * 4
    with estimate['KernelCounter']() as counter:
        out = F.batch_norm(x, None, None, weight, bias, training=True)
    (kernel, ) = counter.found
    assert 3 * whole < kernel.bytes < 3.1 * whole
    gradient = torch.rand_like(out)
    with estimate['KernelCounter']() as counter:
        out.backward(gradient)
    (kernel, ) = counter.found
    assert 5 * whole < kernel.bytes < 5.1 * whole


def test_seconds_of_a_kernel(estimate):
    kernel = estimate['Kernel']
    assert kernel(8.).seconds == pytest.approx(2.2e-6 + .9e-6)
    assert kernel(2.4e9).seconds == pytest.approx(1e-3 + .9e-6)
    assert kernel(2.4e9, 2e-3).seconds == pytest.approx(2e-3 + .9e-6)


def test_count(estimate, tiny_config):
    """Bytes grow with the batch, kernels do not."""
    costs = {}
    for batch_size in (8, 16, 32):
        cfg = tiny_config()
        cfg.train_dataloader.batch_size = batch_size
        costs[batch_size] = estimate['count'](cfg)
        assert costs[batch_size].batch_size == batch_size
    assert len({cost.kernels for cost in costs.values()}) == 1
    assert {cost.branches for cost in costs.values()} == {2}
    small, middle, large = (costs[size].bytes for size in (8, 16, 32))
    assert large - middle == pytest.approx(2 * (middle - small))
    # Weights, gradients and momentum are read or written at least once.
    assert small > middle - small > 0
    # Here no kernel is longer than the shortest one.
    for cost in costs.values():
        assert cost.seconds == pytest.approx(3.1e-6 * cost.kernels)


def test_bounds(estimate):
    cost = estimate['Cost'](
        branches=3, kernels=7, bytes=5e6, seconds=.02, batch_size=100)
    # 500 steps an epoch; a validation counts as 10,000 / 3 images
    steps = (10 * 50_000 + 2 * 10_000 / 3) / 100
    gpu, host = estimate['bounds'](cost, 10, 5)
    assert gpu == pytest.approx(steps * .02 / 60)
    assert host == pytest.approx(steps * 7 * 34e-6 / 60)
    graphs = estimate['bounds'](cost, 10, 5, cuda_graphs=True)
    assert graphs == pytest.approx((gpu, steps * 3 * 3.7e-3 / 60))


def test_benchmark_minutes(estimate, monkeypatch):
    minutes = estimate['benchmark_minutes']
    for name, value in dict(START=10., SAMPLE=2., COMPILE=60.).items():
        monkeypatch.setitem(minutes.__globals__, name, value)
    # 3 that begin at once, 5 samples each and a warm-up, 2 that compile
    assert minutes(3, 5) == pytest.approx((10 + 3 * 6 * 2) / 60)
    assert minutes(3, 5, 2) == pytest.approx((10 + 3 * 6 * 2 + 120) / 60)
    assert minutes(3, 5, sample=7) == pytest.approx((10 + 3 * 6 * 7) / 60)


def test_span(estimate):
    span = estimate['span']
    assert span((2., 5.)) == (5., 7.)
    assert span((9., 5.)) == (9., 14.)
    assert span((2., 5.), runs=6) == (30., 42.)
    # four at a time, then two: the GPU works as long as before
    assert span((2., 5.), runs=6, jobs=4) == (12., 22.)
