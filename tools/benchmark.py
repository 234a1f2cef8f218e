"""Time a cohort against the same networks trained alone by MMPretrain.

    python tools/benchmark.py configs/mcod_small_cifar100.py
"""
import copy
import json
import os.path as osp
import sys

from mcod_plugin.cli import (ToolParser, add_config_arguments, load_config,
                             orderly_end, user_errors)
from mcod_plugin.config.read import merge_options
from mcod_plugin.errors import ConfigError, check_integer, check_number
from mcod_plugin.utils.files import check_out, write_text

# What this tool runs is no part of the package.
BENCHMARKS = osp.join(
    osp.dirname(osp.dirname(osp.abspath(__file__))), 'benchmarks')
NEEDS = ('model', 'train_dataloader', 'train_cfg', 'optim_wrapper')


def parse_args():
    parser = ToolParser(description='Time a cohort')
    parser.add_argument('config', help='path of the config')
    parser.add_argument(
        '--amp', action='store_true', help='the cohort in mixed precision')
    parser.add_argument(
        '--rounds',
        type=int,
        default=7,
        help='samples of each case (default: 7)')
    parser.add_argument(
        '--seconds',
        type=float,
        default=1.,
        help='the least length of a sample (default: 1)')
    parser.add_argument(
        '--threads',
        type=int,
        help='threads of each case (default: those of PyTorch)')
    parser.add_argument(
        '--only',
        nargs='+',
        action='extend',
        default=[],
        metavar='GLOB',
        help='the cases to time, such as step/* bare/*')
    parser.add_argument(
        '--vary',
        nargs='+',
        action='append',
        default=[],
        metavar='KEY=VALUE',
        help='settings of a second cohort to compare with, such as '
        'model.memory_format=contiguous; may be given several times')
    parser.add_argument(
        '--growth',
        action='store_true',
        help='time cohorts of 1, 2, 4 and 8 equal branches instead')
    parser.add_argument(
        '--growth-branch', help='the branch for --growth (default: the first)')
    parser.add_argument(
        '--solo-workers',
        type=int,
        default=2,
        help="workers of each of MMPretrain's data loaders (default: 2)")
    parser.add_argument('--out', help='the .json file to write results to')
    add_config_arguments(parser)
    parser.set_defaults(work_dir=None)
    return parser.parse_args()


def check_args(args):
    """Raise unless the arguments that only this tool has can be used, and
    it is where it can work."""
    if not osp.isdir(osp.join(BENCHMARKS, 'speed')):
        raise ConfigError('the benchmark needs a clone of the repository: '
                          f'{BENCHMARKS} does not hold what it runs; start '
                          'tools/benchmark.py of a clone')
    check_integer('--rounds', args.rounds)
    check_number('--seconds', args.seconds, 0, exclusive=True)
    if args.threads is not None:
        check_integer('--threads', args.threads)
    check_integer('--solo-workers', args.solo_workers, 0)
    if args.growth_branch is not None and not args.growth:
        raise ConfigError('--growth-branch needs --growth')
    if args.launcher != 'none':
        raise ConfigError(f'--launcher {args.launcher}: the benchmark starts '
                          'its processes itself; leave it out')
    if args.out is not None:
        if not args.out.endswith('.json'):
            raise ConfigError(f'--out must end in .json; got {args.out}')
        check_out('--out', args.out)


def vary(cfg, options):
    """A copy of a config with other settings."""
    cfg = copy.deepcopy(cfg)
    merge_options(cfg, options)
    return cfg


@orderly_end()
def main():
    args = parse_args()
    with user_errors():
        check_args(args)
        cfg = load_config(args, NEEDS)
        if args.amp:
            from mcod_plugin.engine.optim_wrapper import use_amp
            use_amp(cfg)
        variants = {
            ' '.join(options): vary(cfg, options)
            for options in args.vary
        }
        sys.path.insert(0, BENCHMARKS)
        from speed import run_benchmark, tables
        report = run_benchmark(cfg, args.rounds, args.seconds, args.threads,
                               args.only, args.solo_workers, variants,
                               args.growth, args.growth_branch)
        print(tables(report))
        if args.out is not None:
            write_text(args.out, f'{json.dumps(report, indent=2)}\n')


if __name__ == '__main__':
    main()
