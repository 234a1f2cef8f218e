"""Take branches out of a cohort, as models of their own.

    python tools/export.py configs/mcod_quickstart.py CHECKPOINT \
        --branch all --format mmpretrain onnx --out exported

An export lies in OUT/<branch>/<format>:

- mmpretrain: config.py and model.pth, for MMPretrain's own tools.
- timm: config.json and model.safetensors, for
  timm.create_model('local-dir:FOLDER', pretrained=True).
- safetensors: model.safetensors, and config.json with the model's config.
- onnx: model.onnx, opset 17. Input: float32 RGB images (N, 3, H, W) of pixels
  from 0 to 255, any N; normalisation is inside. Output: logits.

Each is opened in a fresh process and compared with the branch in its cohort;
unless all are the same, nothing is left on disk. Of --branch all those are
kept that are, and the report tells why the others are not.
"""
import logging

from mcod_plugin.cli import (ToolParser, add_config_arguments, busy,
                             load_config, orderly_end, user_errors)
from mcod_plugin.errors import ConfigError, check_integer

FORMATS = ('mmpretrain', 'timm', 'safetensors', 'onnx')


def parse_args():
    parser = ToolParser(description='Take branches out of a cohort')
    parser.add_argument('config', help='path of the config')
    parser.add_argument('checkpoint', help='path of the checkpoint')
    parser.add_argument(
        '--branch',
        nargs='+',
        required=True,
        metavar='NAME|all',
        help='the branches to export')
    parser.add_argument(
        '--format',
        nargs='+',
        required=True,
        choices=FORMATS,
        help='the formats to export them in')
    parser.add_argument(
        '--out',
        required=True,
        help='the folder to write to; an export lies in '
        'OUT/<branch>/<format>, which must not be there')
    parser.add_argument(
        '--images',
        type=int,
        default=10000,
        help='the most validation images to compare on (default: 10000)')
    parser.add_argument(
        '--verify-accuracy',
        action='store_true',
        help='compare on validation images only; by default, without the '
        'data, on random ones')
    add_config_arguments(parser)
    parser.set_defaults(work_dir=None)
    return parser.parse_args()


@orderly_end()
def main():
    args = parse_args()
    with user_errors():
        check_integer('--images', args.images)
        if args.launcher != 'none':
            raise ConfigError(f'--launcher {args.launcher}: branches are '
                              'exported by one process; leave it out')
        cfg = load_config(args, ('model', ))
        from mmengine.logging import MMLogger

        from mcod_plugin.export import export_branches, report

        # What timm's networks have to say while they are built.
        MMLogger.get_current_instance().setLevel(logging.WARNING)
        with busy('Exporting, and opening the exports again'):
            exports = export_branches(cfg, args.checkpoint, args.branch,
                                      args.format, args.out, args.images,
                                      args.verify_accuracy)
        print(report(exports))
        print(f'Exported to {args.out}/<branch>/<format>.')


if __name__ == '__main__':
    main()
