"""Train a study for some minutes, and pack what it needs to go on elsewhere.

    python benchmarks/gpu/step.py benchmarks/gpu/main_pair_cifar100.py \\
        --minutes 9 --out work_dirs/state

With ``--state`` it first takes over what an earlier step has packed. It can
be stopped at any moment, and packs then as well. README.md beside it tells
the whole sequence.
"""
import os.path as osp
import sys
import time

from mcod_plugin.cli import (ToolParser, add_study_arguments, orderly_end,
                             user_errors)
from mcod_plugin.errors import ConfigError, check_integer, check_number

ROOT = osp.dirname(osp.dirname(osp.dirname(osp.abspath(__file__))))
TRAINER = osp.join(ROOT, 'tools', 'train.py')


def parse_args():
    parser = ToolParser(description='Train a study for some minutes')
    add_study_arguments(parser)
    parser.add_argument(
        '--minutes',
        type=float,
        default=9.,
        help='stop so long after the start, packing apart (default: 9)')
    parser.add_argument(
        '--state',
        nargs='+',
        default=[],
        metavar='FOLDER',
        help='where the parts of an earlier state are')
    parser.add_argument(
        '--out',
        metavar='FOLDER',
        help='pack the state into this folder, whose own one is replaced')
    parser.add_argument(
        '--results-only',
        action='store_true',
        help='take the results out of --state, and train nothing')
    return parser.parse_args()


def check_args(args):
    """Raise unless the arguments can be used, before anything is read."""
    check_integer('--jobs', args.jobs)
    check_number('--minutes', args.minutes, 0, exclusive=True)
    if args.results_only and not args.state:
        raise ConfigError('--results-only needs --state, to take them from')


def tell_code():
    """Warn of records that would not tell which code they are of."""
    from mcod_plugin.utils.machine import describe_machine
    machine = describe_machine()
    if machine['commit'] is None:
        print(
            'warning: the records will tell no commit: no repository was '
            'found',
            file=sys.stderr)
    elif machine['dirty']:
        print(
            'warning: the records will be of changed code: it differs from '
            f'commit {machine["commit"][:7]}',
            file=sys.stderr)


def main():
    start = time.monotonic()
    args = parse_args()
    with user_errors():
        check_args(args)
        from carry import check_target, pack, status, unpack
        from mcod_plugin.compare import (choose, execute, plan, read_study,
                                         shard)
        if args.out is not None:
            check_target(args.out)
        study = read_study(args.study)
        runs = plan(study, args.work_dir, args.cfg_options)
        chosen = shard(choose(runs, args.only), *args.shard)
        if args.state:
            unpack(study.name, runs, args.state, args.results_only)
        if args.results_only:
            print(status(study.name, runs))
            return
        tell_code()
        left = start + 60 * args.minutes - time.monotonic()
        try:
            faults = execute(runs, chosen, [sys.executable, TRAINER],
                             args.jobs, left)
        finally:
            print(status(study.name, runs))
            if args.out is not None:
                files = pack(study.name, runs, args.out)
                print(f'Packed into {args.out}: {", ".join(files)}')
        for fault in faults:
            print(fault, file=sys.stderr)
        if faults:
            sys.exit(1)


if __name__ == '__main__':
    # Its processes go with it, however it is stopped.
    with orderly_end():
        main()
