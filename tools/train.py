"""Train a cohort (or any classifier of MMPretrain) from a config.

    python tools/train.py configs/mcod_resnet_vgg_cifar100.py

Stopped at any moment, it goes on with --resume and ends as if it was not.
"""
from mcod_plugin.cli import (ToolParser, add_config_arguments, dry_run,
                             load_config, orderly_end, run_config, train,
                             user_errors)
from mcod_plugin.config.read import LOADERS
from mcod_plugin.errors import ConfigError
from mcod_plugin.utils.launchers import is_restarted

NEEDS = ('model', 'train_dataloader', 'train_cfg', 'optim_wrapper')


def parse_args():
    parser = ToolParser(description='Train a cohort')
    parser.add_argument('config', help='path of the config')
    parser.add_argument('--work-dir', help='where logs and checkpoints go')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='go on from a checkpoint, or without one from the newest intact '
        'one in the work directory; if there is none, start')
    parser.add_argument(
        '--amp', action='store_true', help='train in mixed precision')
    parser.add_argument(
        '--no-validate',
        action='store_true',
        help='do not evaluate during training')
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate with the batch size')
    parser.add_argument(
        '--no-persistent-workers',
        action='store_true',
        help='start the workers of data loaders anew every epoch')
    parser.add_argument(
        '--dry-run',
        action='store_true',
        help='do two steps, tell what an epoch takes in time and memory, and '
        'write nothing')
    add_config_arguments(parser)
    return parser.parse_args()


def merge_args(cfg, args):
    """Merge the arguments that only training has."""
    if args.resume is not None:
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else args.resume
    elif is_restarted() and not args.dry_run:
        from mcod_plugin.utils.checkpoint import last_checkpoint
        if last_checkpoint(cfg.work_dir) is not None:
            cfg.resume, cfg.load_from = True, None
    if args.amp:
        from mcod_plugin.engine.optim_wrapper import use_amp
        use_amp(cfg)
    if args.no_validate:
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    if args.auto_scale_lr:
        if cfg.get('auto_scale_lr') is None:
            raise ConfigError('--auto-scale-lr needs a config with '
                              'auto_scale_lr=dict(base_batch_size=...)')
        cfg.auto_scale_lr.enable = True
    if args.no_persistent_workers:
        for name in LOADERS:
            if cfg.get(name) is not None:
                cfg[name].persistent_workers = False


@orderly_end(trains=True)
def main():
    args = parse_args()
    with user_errors():
        cfg = load_config(args, NEEDS)
        merge_args(cfg, args)
        if args.dry_run:
            dry_run(cfg)
        else:
            run_config(cfg, train)


if __name__ == '__main__':
    main()
