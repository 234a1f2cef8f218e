"""How long the queue of README.md takes on a GPU: an estimate from counts, no
measurement.

    python benchmarks/gpu/estimate.py

A training step of each cohort is run on the CPU with a few images, and its
operations are counted, each of which is a kernel on a GPU. Three bounds
follow: by arithmetic, by memory and by the launches of kernels.
"""
import copy
import math
import os.path as osp
import tempfile
from dataclasses import dataclass

import torch
from mmengine.registry import init_default_scope
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mcod_plugin.benchmark.contenders import (GROWTH, cohort_runner, line_up,
                                              raw_batches)
from mcod_plugin.cli import ToolParser, user_errors
from mcod_plugin.compare import plan, read_study
from mcod_plugin.engine.hooks.cohort_report_hook import count_flops
from mcod_plugin.utils.table import render

FOLDER = osp.dirname(osp.abspath(__file__))

# What an H100 is taken to reach. In bfloat16 it multiplies large matrices at
# about 800 TFLOP/s and copies at about 3 TB/s; convolutions of 16 to 64
# channels on images of 32x32 reach a part of that.
FLOPS = 200e12
BANDWIDTH = 2.5e12
# Seconds that PyTorch takes for an operation on the host: least and most.
LAUNCH = 6e-6, 10e-6

# Training and validation of CIFAR-100.
IMAGES = 50_000, 10_000
# Backward takes about twice as long as forward.
PASSES = 3
# Batch sizes at which bytes are counted, to tell those that grow with the
# batch from those of the weights.
SIZES = 4, 8

# Seconds for a process to begin, which imports, builds and warms up, and for
# one that compiles besides.
START = 12.
COMPILE = 60.
# Seconds of a turn of the benchmark with its lead-in.
TURN = 1.5
# Rounds of turns: in the step with the most contenders, and else.
ROUNDS = 5, 7

# Runs of each step of the queue, and how many are trained at a time.
STEPS = {
    'main_pair_cifar100': {
        'seed 0, solo and mcod': 2,
        'seed 0, always_on and dml': 2,
        'seeds 1 and 2': 8
    },
    'families_cifar100': {
        'seed 0': 4,
        'seeds 1 and 2': 8
    },
}
JOBS = 4
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
class Cost:
    """What a training step costs.

    Attributes:
        multiply_adds (int): Of an image, in all branches, forward.
        kernels (int): Operations of a step.
        bytes (float): Read and written by the operations of a step.
        batch_size (int): Images of a step.
    """
    multiply_adds: int
    kernels: int
    bytes: float
    batch_size: int


class KernelCounter(TorchDispatchMode):
    """Counts the operations that are kernels on a GPU, and their bytes.

    An operation reads and writes each of its tensors once. The backward of a
    convolution counts as two, one for the images and one for the weights.

    Attributes:
        kernels (int): Operations so far.
        bytes (int): Bytes so far.
    """

    def __init__(self):
        super().__init__()
        self.kernels = 0
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        name = func.overloadpacket.__name__
        if not func.is_view and name not in FREE:
            self.kernels += 2 if name == 'convolution_backward' else 1
            self.bytes += sum(leaf.numel() * leaf.element_size()
                              for leaf in tree_leaves((args, kwargs, out))
                              if isinstance(leaf, torch.Tensor))
        return out


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
    for size in SIZES:
        cfg.train_dataloader.batch_size = size
        batch = raw_batches(cfg)[0]
        if not found:
            # The first step makes the momentum.
            model.train_step(batch, optim_wrapper)
        with KernelCounter() as counter:
            model.train_step(batch, optim_wrapper)
        found.append(counter)
    shape = 1, model.in_channels, *model.input_size
    small, large = found
    slope = (large.bytes - small.bytes) / (SIZES[1] - SIZES[0])
    return Cost(
        multiply_adds=sum(
            count_flops(branch, shape) for branch in model.branches.values()),
        kernels=large.kernels,
        bytes=large.bytes + slope * (batch_size - SIZES[1]),
        batch_size=batch_size)


def bounds(cost, epochs, val_interval):
    """Minutes of a run by each bound.

    Args:
        cost (Cost): A training step.
        epochs (int): Its epochs.
        val_interval (int): Epochs from one validation to the next.

    Returns:
        tuple[float, float, float, float]: The minutes by arithmetic, by
        memory, and by launches at their least and their most.
    """
    train, val = IMAGES
    # A validation is forward alone.
    images = epochs * train + epochs // val_interval * val / PASSES
    steps = images / cost.batch_size
    seconds = (
        images * PASSES * 2 * cost.multiply_adds / FLOPS,
        steps * cost.bytes / BANDWIDTH,
        steps * cost.kernels * LAUNCH[0],
        steps * cost.kernels * LAUNCH[1],
    )
    return tuple(value / 60 for value in seconds)


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
    arithmetic, memory, fast, slow = minutes
    rounds = math.ceil(runs / jobs)
    return (max(runs * max(arithmetic, memory),
                rounds * fast), runs * (arithmetic + memory) + rounds * slow)


def benchmark_minutes(contenders, rounds, compiled=0):
    """Minutes of the benchmark tool.

    Args:
        contenders (int): How many there are.
        rounds (int): How many turns each of them has.
        compiled (int): How many of them compile. Defaults to 0.

    Returns:
        float: The minutes.
    """
    seconds = contenders * (START + rounds * TURN) + compiled * COMPILE
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
                number = len(line_up(cfg, 2, dict.fromkeys(VARIANTS, cfg)))
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
                queue += [[step, '', f'{value:.0f}', '']
                          for step, value in minutes.items()]
            cost = count(cfg)
            epochs = cfg.train_cfg.max_epochs
            found = bounds(cost, epochs, cfg.train_cfg.val_interval)
            costs.append([
                name, f'{cost.multiply_adds / 1e6:,.0f}', f'{cost.kernels:,}',
                f'{cost.bytes / 1e9:.1f}', f'{epochs}',
                *(f'{value:.1f}' for value in found)
            ])
            queue += [[
                f'{name}: {step}', f'{runs}',
                *('{:.0f} to {:.0f}'.format(*span(found, runs, jobs))
                  for jobs in (1, JOBS))
            ] for step, runs in steps.items()]
        print('A step, and minutes of a run by each bound:')
        print(
            render(('study', 'M multiply-adds', 'kernels', 'GB', 'epochs',
                    'arithmetic', 'memory', 'launches', 'slow launches'),
                   costs))
        print('The queue:')
        print(
            render(('step', 'runs', 'minutes', f'with --jobs {JOBS}'), queue))


if __name__ == '__main__':
    main()
