"""Train many methods on one cohort, with the same seeds, and compare them.

    python tools/compare.py benchmarks/cpu/small_cifar100.py

Stopped at any moment, it goes on where it was. ``--report`` makes the report
anew from the result files.
"""
import math
import os.path as osp
import sys

from mcod_plugin.cli import (ToolParser, add_study_arguments, orderly_end,
                             user_errors)
from mcod_plugin.errors import check_integer, check_number

TRAINER = osp.join(osp.dirname(osp.abspath(__file__)), 'train.py')


def parse_args():
    parser = ToolParser(description='Compare methods on one cohort')
    add_study_arguments(parser)
    parser.add_argument(
        '--minutes',
        type=float,
        default=math.inf,
        help='stop after so long, to go on the next time')
    parser.add_argument(
        '--dry-run',
        action='store_true',
        help='tell what there is to do, and do nothing')
    parser.add_argument(
        '--report', action='store_true', help='train nothing, make the report')
    return parser.parse_args()


@orderly_end()
def main():
    args = parse_args()
    with user_errors():
        check_integer('--jobs', args.jobs)
        if args.minutes != math.inf:
            check_number('--minutes', args.minutes, 0, exclusive=True)
        from mcod_plugin.compare import (choose, execute, overview, plan,
                                         read_study, shard, write_report)
        study = read_study(args.study)
        runs = plan(
            study, args.work_dir, args.cfg_options, build=not args.report)
        if args.report:
            print(write_report(study, runs))
            return
        chosen = shard(choose(runs, args.only), *args.shard)
        print(overview(chosen))
        if args.dry_run:
            return
        faults = execute(runs, chosen, [sys.executable, TRAINER], args.jobs,
                         60 * args.minutes)
        for fault in faults:
            print(fault, file=sys.stderr)
        if any(osp.isfile(run.result) for run in runs):
            print(write_report(study, runs))
        if faults:
            sys.exit(1)


if __name__ == '__main__':
    main()
