"""Make one cohort of existing configs of classifiers.

    python tools/compose.py mmpretrain::resnet/resnet18_8xb16_cifar10.py \
        mmpretrain::mobilenet_v3/mobilenet-v3-small_8xb16_cifar10.py -o OUT.py

It prints what the configs say differently.
"""
from mcod_plugin.cli import ToolParser, orderly_end, user_errors


def parse_args():
    parser = ToolParser(description='Make one cohort of existing configs')
    parser.add_argument(
        'configs',
        nargs='+',
        metavar='CONFIG',
        help='paths, or names such as '
        'mmpretrain::resnet/resnet18_8xb16_cifar10.py of configs that the '
        'package ships')
    parser.add_argument(
        '-o', '--out', required=True, help='the config to write, a .py file')
    parser.add_argument(
        '--names',
        nargs='+',
        help='names of the branches, one per config (default: from the names '
        'of the files)')
    parser.add_argument(
        '--recipe-from',
        default='1',
        metavar='N|NAME',
        help='the config whose data, optimizer and schedule all are trained '
        'by: its number or the name of its branch (default: 1)')
    parser.add_argument(
        '--force', action='store_true', help='replace the file if it exists')
    return parser.parse_args()


@orderly_end()
def main():
    args = parse_args()
    with user_errors():
        # Mistakes in arguments need none of what takes seconds to import.
        from mcod_plugin.compose.compose import compose
        print(
            compose(args.configs, args.out, args.names, args.recipe_from,
                    args.force))
        print(f'{args.out} is written; python tools/train.py {args.out}')


if __name__ == '__main__':
    main()
