"""How long the queue of README.md takes on a GPU: an estimate from counts, and
from the pace of the main pair on an H100.

    python benchmarks/gpu/estimate.py

A training step of each cohort is run on the CPU with a few images, and its
operations are counted, each of which is a kernel on a GPU. Two bounds follow:
by the time of all kernels and by that of launching them. A kernel takes as
long as its memory or its arithmetic, whichever is slower.
"""
import copy
import math
import os.path as osp
import sys
import tempfile
from dataclasses import dataclass

import torch
from mmengine.registry import init_default_scope
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mcod_plugin.cli import ToolParser, user_errors
from mcod_plugin.compare import plan, read_study
from mcod_plugin.engine.runner.compile_settings import uses_cuda_graphs
from mcod_plugin.runs.tables import render

FOLDER = osp.dirname(osp.abspath(__file__))
sys.path.insert(0, osp.dirname(FOLDER))
from speed.cases import (  # noqa: E402
    GROWTH, cohort_runner, raw_batches, speed_cases)

# Of a kernel on an H100; guesses, whose sum README.md holds against the main
# pair. Bytes a second: 70 % of what its memory can do.
BANDWIDTH = 2.4e12
# Operations a second of a convolution in bfloat16 with enough channels, and of
# one with groups.
ARITHMETIC = 350e12
GROUPED = 8e12
# Channels that are enough.
CHANNELS = 128
# Of that, what remains for the gradients of images and weights.
GRADIENTS = 0.8, 0.6
# Seconds of the shortest kernel, and from one to the next.
FLOOR = 2.2e-6
GAP = 0.9e-6
# Seconds on the host, of the main pair there: of each operation of a step of
# 21.66 ms without compile, and of each branch of a step of 7.36 ms with CUDA
# graphs.
LAUNCH = 34e-6
REPLAY = 3.7e-3

# Training and validation of CIFAR-100.
IMAGES = 50_000, 10_000
# Backward takes about twice as long as forward.
PASSES = 3
# Batch sizes at which costs are counted, to tell those that grow with the
# batch from those of the weights.
SIZES = 4, 8

# Seconds for a process to begin, which imports, builds and warms up, and for
# one that compiles besides.
START = 30.
COMPILE = 25.
# Seconds of a sample of the benchmark with all that is not timed.
SAMPLE = 3.
# Rounds: in the step with the most cases, and else.
ROUNDS = 5, 7
# At 224 pixels: seconds and rounds, and of both commands how many cases there
# are and how many of them compile or are recorded.
LARGE_SAMPLE = 7.
LARGE_ROUNDS = 3
LARGE = {'images in memory': (9, 2), 'images from files': (11, 0)}

# Runs of each step of the queue, and how many are trained at a time.
STEPS = {
    'main_pair_cifar100': {
        'seeds 1 and 2, solo and mcod': 4,
        'always_on and dml': 6
    },
    'families_cifar100': {
        'seed 0': 4,
        'seeds 1 and 2': 8
    },
}
JOBS = 2
# Of the main cohort. Those that compile are timed apart, beside the one that
# does not, and on batches of one size, since another is compiled anew.
VARIANTS = ('memory format', 'logging')
COMPILED = 2
# What smoke.sh starts, one after the other, of which the last one compiles.
SMOKE = 9

# Operations that only change how a tensor is seen, or make room for one.
FREE = ('empty', 'empty_like', 'empty_strided', 'new_empty',
        'new_empty_strided', 'lift_fresh', '_reshape_alias', '_unsafe_view')


@dataclass
class Kernel:
    """What an operation costs.

    Attributes:
        bytes (float): That it reads and writes.
        work (float): Seconds of its arithmetic on the GPU. Defaults to 0.
    """
    bytes: float
    work: float = 0.

    @property
    def seconds(self):
        """float: That it takes on the GPU."""
        return max(FLOOR, self.bytes / BANDWIDTH, self.work) + GAP


@dataclass
class Cost:
    """What a training step costs.

    Attributes:
        branches (int): Networks of the cohort.
        kernels (int): Operations of a step.
        bytes (float): Read and written by the operations of a step.
        seconds (float): Of all its operations on the GPU.
        batch_size (int): Images of a step.
    """
    branches: int
    kernels: int
    bytes: float
    seconds: float
    batch_size: int


class KernelCounter(TorchDispatchMode):
    """Counts the operations that are kernels on a GPU, and what they cost.

    An operation reads and writes each of its tensors once, but batch norm,
    which needs what comes in twice. The backward of a convolution is a kernel
    for each of the gradients of images and weights that is asked for.

    Attributes:
        found (list[Kernel]): The operations so far.
    """

    def __init__(self):
        super().__init__()
        self.found = []

    @property
    def kernels(self):
        """int: Their number."""
        return len(self.found)

    @property
    def bytes(self):
        """float: Those that all of them read and write."""
        return sum(kernel.bytes for kernel in self.found)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        name = func.overloadpacket.__name__
        if func.is_view or name in FREE:
            return out
        if name == 'convolution':
            work = arithmetic(out, weight=args[1], groups=args[8])
            self.found.append(Kernel(size(args, out), work))
        elif name == 'convolution_backward':
            gradient, images, weight, groups = *args[:3], args[9]
            work = arithmetic(gradient, weight, groups)
            for other, share, result in zip((weight, images), GRADIENTS, out):
                if result is not None:
                    self.found.append(
                        Kernel(size(gradient, other, result), work / share))
        else:
            again = ()
            if 'batch_norm' in name:
                # Backward, the gradient and the images are first.
                again = args[:2] if 'backward' in name else args[:1]
            self.found.append(Kernel(size(args, kwargs, out, again)))
        return out


def size(*values):
    """Bytes of all tensors in some values."""
    return sum(leaf.numel() * leaf.element_size()
               for leaf in tree_leaves(values)
               if isinstance(leaf, torch.Tensor))


def arithmetic(out, weight, groups):
    """Seconds of the products and sums of a convolution.

    Args:
        out (Tensor): What it gives ``(N, C, H, W)``.
        weight (Tensor): Its weight ``(C, C_in / groups, h, w)``.
        groups (int): Its groups.

    Returns:
        float: The seconds.
    """
    rate = GROUPED
    if groups == 1:
        rate = ARITHMETIC * min(1., min(weight.shape[:2]) / CHANNELS)**0.9
    return 2 * out.numel() * weight[0].numel() / rate


def count(cfg):
    """Count what a training step of a cohort costs while it distils.

    Args:
        cfg (Config): The config.

    Returns:
        Cost: The counts.
    """
    init_default_scope(cfg.default_scope)
    cfg = copy.deepcopy(cfg)
    cfg.log_level = 'ERROR'
    # No more images than are looked at.
    cfg.train_dataloader.dataset.indices = max(SIZES)
    with tempfile.TemporaryDirectory() as folder:
        runner = cohort_runner(cfg, folder)
    model = runner.model
    model.init_weights()
    model.train()
    model.kd_weight = 1.
    optim_wrapper = runner.build_optim_wrapper(cfg.optim_wrapper)
    batch_size = cfg.train_dataloader.batch_size
    found = []

    def extrapolate(small, large):
        """From a batch of each of the sizes to one of the config."""
        share = (batch_size - SIZES[0]) / (SIZES[1] - SIZES[0])
        return small + share * (large - small)

    for images in SIZES:
        cfg.train_dataloader.batch_size = images
        batch = raw_batches(cfg)[0]
        if not found:
            # The first step makes the momentum.
            model.train_step(batch, optim_wrapper)
        with KernelCounter() as counter:
            model.train_step(batch, optim_wrapper)
        found.append(counter.found)
    kernels = [
        Kernel(*(extrapolate(getattr(one, key), getattr(other, key))
                 for key in ('bytes', 'work')))
        for one, other in zip(*found, strict=True)
    ]
    return Cost(
        branches=len(model.branches),
        kernels=len(kernels),
        bytes=sum(kernel.bytes for kernel in kernels),
        seconds=sum(kernel.seconds for kernel in kernels),
        batch_size=batch_size)


def bounds(cost, epochs, val_interval, cuda_graphs=False):
    """Minutes of a run by each bound.

    Args:
        cost (Cost): A training step.
        epochs (int): Its epochs.
        val_interval (int): Epochs from one validation to the next.
        cuda_graphs (bool): Whether its branches are replayed. Defaults to
            False.

    Returns:
        tuple[float, float]: The minutes by the GPU and by the host.
    """
    train, val = IMAGES
    # A validation is forward alone.
    images = epochs * train + epochs // val_interval * val / PASSES
    steps = images / cost.batch_size
    host = (cost.branches * REPLAY if cuda_graphs else cost.kernels * LAUNCH)
    return steps * cost.seconds / 60, steps * host / 60


def span(minutes, runs=1, jobs=1):
    """Least and most minutes of some runs.

    Least: whatever is slower of the GPU and the host, while the other one
    does its part unseen. Most: one after the other. Several runs at a time
    share the GPU, not the host.

    Args:
        minutes (tuple): Those of :func:`bounds`.
        runs (int): The number of runs. Defaults to 1.
        jobs (int): How many of them at a time. Defaults to 1.

    Returns:
        tuple[float, float]: The minutes.
    """
    gpu, host = minutes
    rounds = math.ceil(runs / jobs)
    return max(runs * gpu, rounds * host), runs * gpu + rounds * host


def benchmark_minutes(cases, rounds, compiled=0, sample=None):
    """Minutes of the benchmark tool.

    Args:
        cases (int): How many there are.
        rounds (int): Samples of each.
        compiled (int): How many of them compile. Defaults to 0.
        sample (float, optional): Seconds of a sample with all that is not
            timed. Defaults to those of small images.

    Returns:
        float: The minutes.
    """
    # They begin together, and warm up for as long as a sample.
    seconds = START + cases * (rounds + 1) * (sample or SAMPLE)
    seconds += compiled * COMPILE
    return seconds / 60


def main():
    ToolParser(description=__doc__.partition('\n')[0]).parse_args()
    with user_errors():
        costs, queue = [], []
        for name, steps in STEPS.items():
            study = read_study(osp.join(FOLDER, f'{name}.py'))
            cfg = next(
                run.cfg for run in plan(study, 'work_dirs')
                if run.method == 'mcod')
            if not queue:
                number = len(speed_cases(cfg, 2, dict.fromkeys(VARIANTS, cfg)))
                few, many = ROUNDS
                minutes = {
                    'smoke': (SMOKE * START + COMPILE) / 60,
                    f'benchmark --rounds {few}':
                    benchmark_minutes(number, few),
                    'benchmark, compiled':
                    benchmark_minutes(1 + COMPILED, many, COMPILED),
                    'benchmark --growth':
                    benchmark_minutes(len(GROWTH), many),
                }
                minutes.update({
                    f'a pair at 224 pixels, {name}':
                    benchmark_minutes(cases, LARGE_ROUNDS, compiled,
                                      LARGE_SAMPLE)
                    for name, (cases, compiled) in LARGE.items()
                })
                queue += [[step, '', f'{value:.0f}', '']
                          for step, value in minutes.items()]
            cost = count(cfg)
            epochs = cfg.train_cfg.max_epochs
            found = bounds(cost, epochs, cfg.train_cfg.val_interval,
                           uses_cuda_graphs(cfg.get('compile')))
            costs.append([
                name, f'{cost.kernels:,}', f'{cost.bytes / 1e9:.1f}',
                f'{1e3 * cost.seconds:.1f}', f'{epochs}',
                *(f'{value:.1f}' for value in found)
            ])
            queue += [[
                f'{name}: {step}', f'{runs}',
                *('{:.0f} to {:.0f}'.format(*span(found, runs, jobs))
                  for jobs in (1, JOBS))
            ] for step, runs in steps.items()]
        print('A step, and minutes of a run by each bound:')
        print(
            render(('study', 'kernels', 'GB', 'ms', 'epochs', 'GPU', 'host'),
                   costs))
        print('The queue:')
        print(
            render(('step', 'runs', 'minutes', f'with --jobs {JOBS}'), queue))


if __name__ == '__main__':
    main()
