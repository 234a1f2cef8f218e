"""Evaluate a checkpoint of a cohort: every branch and the ensemble.

    python tools/test.py configs/mcod_quickstart.py CHECKPOINT
"""
import json

from mcod_plugin.cli import (ToolParser, add_config_arguments, load_config,
                             orderly_end, run_config, user_errors)
from mcod_plugin.errors import ConfigError
from mcod_plugin.utils.files import check_out, new_file

NEEDS = ('model', 'test_dataloader', 'test_cfg', 'test_evaluator')


def parse_args():
    parser = ToolParser(description='Evaluate a checkpoint')
    parser.add_argument('config', help='path of the config')
    parser.add_argument('checkpoint', help='path of the checkpoint')
    parser.add_argument('--work-dir', help='where the log goes')
    parser.add_argument('--out', help='the file to write results to')
    parser.add_argument(
        '--out-item',
        choices=['metrics', 'pred'],
        help='write metrics (.json, .yaml, .pkl) or predictions (.pkl); '
        'default: metrics, unless --out ends in .pkl')
    parser.add_argument(
        '--amp', action='store_true', help='evaluate in mixed precision')
    parser.add_argument(
        '--tta',
        action='store_true',
        help='average scores over versions of each image: by tta_model and '
        'tta_pipeline of the config, else over the image and its mirror image')
    add_config_arguments(parser)
    return parser.parse_args()


def out_item(args):
    """What ``--out`` gets."""
    if args.out is None:
        if args.out_item is not None:
            raise ConfigError('--out-item needs --out FILE')
        return None
    if not args.out.endswith(('.json', '.yaml', '.yml', '.pkl', '.pickle')):
        raise ConfigError('--out must end in .json, .yaml or .pkl; got '
                          f'{args.out}')
    check_out('--out', args.out)
    pickled = args.out.endswith(('.pkl', '.pickle'))
    item = args.out_item or ('pred' if pickled else 'metrics')
    if item == 'pred' and not pickled:
        raise ConfigError('--out-item pred needs --out FILE.pkl; got '
                          f'{args.out}')
    return item


def plain(metrics):
    """Metrics that a file of any kind can hold: tensors and arrays as lists,
    what is no number either as text."""
    text = json.dumps(
        metrics,
        default=lambda value: value.tolist()
        if hasattr(value, 'tolist') else str(value))
    return json.loads(text)


def write_metrics(metrics, path):
    """Write a file of metrics, as a whole and from one process."""
    from mmengine import dump
    from mmengine.dist import is_main_process
    if is_main_process():
        with new_file(path) as part:
            dump(plain(metrics), part, file_format=path.rpartition('.')[2])


@orderly_end()
def main():
    args = parse_args()
    with user_errors():
        item = out_item(args)
        cfg = load_config(args, NEEDS)
        cfg.load_from = args.checkpoint
        # Each process evaluates all branches, on its share of the images.
        cfg.parallel = None
        if args.amp:
            cfg.test_cfg.fp16 = True
        if args.tta:
            from mcod_plugin.config.tta import use_tta
            use_tta(cfg)

        def test(runner):
            if item == 'pred':
                from mcod_plugin.evaluation import PredictionFile
                runner.test_evaluator.metrics.append(
                    PredictionFile(out_file_path=args.out))
            return runner.test()

        metrics = run_config(cfg, test)
        if item == 'metrics':
            write_metrics(metrics, args.out)


if __name__ == '__main__':
    main()
