"""Put the accuracies and schedules of some runs side by side.

    python tools/plot.py work_dirs/my_cohort work_dirs/my_cohort_solo

The picture has a panel for each branch and one for the ensemble, each with a
curve for each run; a table tells where they end. Runs that are still training
can be drawn as well.
"""
import os.path as osp

from mcod_plugin.cli import ToolParser, orderly_end, user_errors
from mcod_plugin.errors import ConfigError


def parse_args():
    parser = ToolParser(description='Draw some runs side by side')
    parser.add_argument(
        'work_dirs',
        nargs='+',
        metavar='WORK_DIR',
        help='work directories of the runs')
    parser.add_argument(
        '--out',
        default='curves.png',
        help='the PNG file to write (default: curves.png)')
    return parser.parse_args()


def read_records(work_dirs):
    """Their records, by names that tell them apart."""
    from mcod_plugin.runs.record import RECORD, read_record
    names = [osp.basename(osp.abspath(path)) for path in work_dirs]
    if len(set(names)) < len(names):
        names = work_dirs
    records = {}
    for name, work_dir in zip(names, work_dirs):
        path = osp.join(work_dir, RECORD)
        try:
            records[name] = read_record(path)
        except (OSError, ValueError) as error:
            raise ConfigError(f'WORK_DIR {work_dir} has no {RECORD} of a run '
                              f'that can be read: {error}') from error
        if not isinstance(records[name].get('curves'), dict):
            raise ConfigError(f'{path} lacks the curves of a run')
    units = {record.get('unit', 'epoch') for record in records.values()}
    if len(units) > 1:
        raise ConfigError('runs that count in epochs and in iterations cannot '
                          'be drawn together')
    return records


@orderly_end()
def main():
    args = parse_args()
    with user_errors():
        from mcod_plugin.runs.curves import draw_runs
        from mcod_plugin.runs.tables import last_accuracies
        from mcod_plugin.utils.files import check_out
        if not args.out.endswith('.png'):
            raise ConfigError(f'--out must end in .png; got {args.out}')
        check_out('--out', args.out)
        records = read_records(args.work_dirs)
        if not draw_runs(records, args.out):
            raise ConfigError('none of the runs has measured a top-1 accuracy '
                              'yet')
        print(last_accuracies(records))
        print(f'The curves are in {args.out}.')


if __name__ == '__main__':
    main()
