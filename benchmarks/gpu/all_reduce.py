"""What several processes send each other in a training step, and how long a
step waits for it.

    torchrun --nproc_per_node 8 benchmarks/gpu/all_reduce.py CONFIG \\
        --vary model_wrapper_cfg.bucket_cap_mb=5 --vary compile=True

Each row is a cohort with other settings, on random images; the first is as
the config says. All begin with the same weights, and make 12 steps without
and with distillation, first of all: "differs" is how far their losses are
from those of the first row, relatively. Then it counts what is sent in a
step, gradients and whatever else, and takes the time of steps in which the
processes exchange gradients and in which they do not (``no_sync``), in turns:
the median of the differences is what a step waits for. Without a GPU the
processes use gloo and small batches.
"""
import argparse
import copy
import os
import os.path as osp
import statistics
import sys
import time
from contextlib import nullcontext

FOLDER = osp.dirname(osp.abspath(__file__))
sys.path.insert(0, FOLDER)
from whole_step import FEW, Training, on_gpu  # noqa: E402

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from mmengine.dist import init_dist  # noqa: E402
from mmengine.registry import init_default_scope  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_leaves  # noqa: E402

from mcod_plugin.cli import ToolParser, user_errors  # noqa: E402
from mcod_plugin.config.read import merge_options, read_config  # noqa: E402
from mcod_plugin.engine.runner.compile_settings import (  # noqa: E402
    compile_branches, compile_settings)
from mcod_plugin.engine.runner.processes import (  # noqa: E402
    check_wrapper, join_processes, wrap_for_processes)
from mcod_plugin.errors import check_integer  # noqa: E402
from mcod_plugin.runs.tables import render  # noqa: E402
from mcod_plugin.utils.launchers import LAUNCHERS, adopt_ranks  # noqa: E402

# Steps before anything is counted: without distillation, with, harder.
FIRST = 12
PHASES = dict(on=1., off=0.)


def parse_args():
    parser = ToolParser(
        description=__doc__.partition('\n\n')[0],
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config')
    parser.add_argument(
        '--vary',
        nargs='+',
        action='append',
        default=[],
        metavar='KEY=VALUE',
        help='settings of a further row; may be given several times')
    parser.add_argument(
        '--rounds',
        type=int,
        default=7,
        help='samples of each phase and way (default: 7)')
    parser.add_argument(
        '--steps',
        type=int,
        default=20,
        help='steps of a sample (default: 20)')
    parser.add_argument(
        '--cfg-options', nargs='+', default=[], metavar='KEY=VALUE')
    parser.add_argument('--launcher', choices=LAUNCHERS, default='pytorch')
    return parser.parse_args()


class Sent(TorchDispatchMode):
    """Counts the messages of this process to all others, and their bytes."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == 'c10d':
            self.sizes.append(
                sum(
                    value.nbytes for value in tree_leaves(args[0])
                    if torch.is_tensor(value)))
        return func(*args, **(kwargs or {}))


def measure(cfg, rounds, steps):
    """What a cohort sends, and the time of its steps.

    Args:
        cfg (Config): The config.
        rounds (int): Samples of each phase and way.
        steps (int): Steps of a sample.

    Returns:
        dict: ``losses`` of the first steps, averaged over the processes, and
        by phase ``sizes``, the bytes of each message of a step, and
        ``samples``, pairs of the seconds of a step with and without them.
    """
    training = Training(cfg, 'eager')
    model = wrap_for_processes(training.model, cfg.get('model_wrapper_cfg'),
                               cfg.get('find_unused_parameters', False))
    settings = compile_settings(cfg.get('compile'))
    check_wrapper(model, settings is not None, 1)
    if settings is not None:
        compile_branches(training.model.branches, settings)
    if cfg.get('on_divergence') == 'drop':
        training.model.leave_out_diverged()
    training.step = model.train_step
    for batch in training.batches:
        # Each process has images of its own.
        batch['inputs'] = batch['inputs'].roll(dist.get_rank(), 2)
    losses = torch.tensor(training.train(0, FIRST), dtype=torch.float64)
    found = dict(losses=_mean(losses).tolist())
    for phase, weight in PHASES.items():
        training.model.kd_weight = weight
        with Sent() as sent:
            training.step(training.batches[0], training.wrapper)
        # The first ones warm up.
        samples = [[
            _seconds(training, context, steps)
            for context in (nullcontext, model.no_sync)
        ] for _ in range(rounds + 1)][1:]
        found[phase] = dict(sizes=sent.sizes, samples=samples)
    return found


def _seconds(training, context, steps):
    """The mean time of a step, of the slowest process."""
    sync = torch.cuda.synchronize if on_gpu() else (lambda: None)
    dist.barrier()
    sync()
    begin = time.perf_counter()
    with context():
        for step in range(steps):
            training.step(training.batches[step % len(training.batches)],
                          training.wrapper)
        sync()
    seconds = torch.tensor(
        (time.perf_counter() - begin) / steps, dtype=torch.float64)
    return _all(seconds, dist.ReduceOp.MAX).item()


def _mean(values):
    return _all(values, dist.ReduceOp.SUM) / dist.get_world_size()


def _all(values, op):
    values = values.cuda() if on_gpu() else values
    dist.all_reduce(values, op)
    return values.cpu()


def table(results):
    """The rows of :func:`measure` for a terminal.

    Args:
        results (dict[str, dict]): By the settings of each row.

    Returns:
        str: The table.
    """
    first = next(iter(results.values()))['losses']
    rows = []
    for name, result in results.items():
        gap = max(
            abs(one - other) / abs(other)
            for one, other in zip(result['losses'], first))
        for phase in PHASES:
            found = result[phase]
            with_, without = zip(*found['samples'])
            waits = statistics.median(one - other
                                      for one, other in found['samples'])
            rows.append((name, phase, f'{gap:.1e}', str(len(found['sizes'])),
                         f'{sum(found["sizes"]) / 2**20:.2f}',
                         f'{1e3 * statistics.median(with_):.2f}',
                         f'{1e3 * statistics.median(without):.2f}',
                         f'{1e3 * waits:.2f}'))
    return render(('settings', 'kd', 'differs', 'messages', 'MiB', 'ms',
                   'ms alone', 'ms waiting'), rows)


def join(launcher):
    """Join the other processes, as a run does."""
    adopt_ranks(launcher)
    join_processes({})
    if not dist.is_initialized():
        init_dist('pytorch', backend='nccl')


def main():
    args = parse_args()
    with user_errors():
        check_integer('--rounds', args.rounds)
        check_integer('--steps', args.steps)
        cfg = read_config(args.config)
        if not on_gpu():
            cfg.train_dataloader.batch_size = FEW
        merge_options(cfg, args.cfg_options)
        init_default_scope(cfg.default_scope)
        cfg.log_level = 'ERROR'
        cfgs = {'as it is': cfg}
        for options in args.vary:
            varied = copy.deepcopy(cfg)
            merge_options(varied, options)
            cfgs[' '.join(options)] = varied
        join(args.launcher)
        torch.set_num_threads(
            max(
                1,
                torch.get_num_threads() //
                int(os.environ.get('LOCAL_WORLD_SIZE', 1))))
        results = {
            name: measure(varied, args.rounds, args.steps)
            for name, varied in cfgs.items()
        }
        if dist.get_rank() == 0:
            print(f'{args.config}: {dist.get_world_size()} processes of '
                  f'{cfg.train_dataloader.batch_size} images each, '
                  f'{dist.get_backend()}, torch {torch.__version__}')
            print(table(results))
        dist.destroy_process_group()


if __name__ == '__main__':
    main()
