"""Publish a trained cohort: weights, configs, figures and model cards.

    python tools/publish.py work_dirs/mcod_quickstart \
        --out model_cards/mcod_quickstart

OUT is the folder of the cohort: README.md ranks the branches, metafile.yml is
for a model index of MMPretrain. OUT/<branch> has the card of a branch, its
config, its weights (.pth, named after its hash, and .safetensors) and figures.

Accuracies are those of the written files on the validation data; unless all of
it works out, nothing is left on disk.
"""
import logging

from mcod_plugin.cli import ToolParser, busy, orderly_end, user_errors


def parse_args():
    parser = ToolParser(description='Publish a trained cohort')
    parser.add_argument('work_dir', help='work directory of the run')
    parser.add_argument(
        '--out',
        required=True,
        help='the folder to write to, new or empty; its name becomes that of '
        'the cohort')
    parser.add_argument(
        '--solo',
        metavar='WORK_DIR',
        help='work directory of the same recipe by --method solo; without it '
        'no gain is claimed')
    parser.add_argument(
        '--checkpoint',
        metavar='FILE',
        help='the checkpoint to publish (default: the last one)')
    parser.add_argument(
        '--push',
        metavar='USER/REPO',
        help='upload it to the Hugging Face hub when everything is written: '
        'the cohort to USER/REPO, each branch to USER/REPO-<branch>')
    parser.add_argument(
        '--data-name',
        metavar='NAME',
        help='the name of the data set on the cards (default: what is known '
        'of it, else the type in the config)')
    parser.add_argument(
        '--data-terms',
        metavar='TEXT',
        help='where the data come from and what may be done with them')
    parser.add_argument(
        '--license',
        metavar='NAME',
        help='the licence of the weights as the Hugging Face hub names it, '
        'such as cc-by-4.0 (default: the cards say that none is stated)')
    parser.add_argument(
        '--private',
        action='store_true',
        help='make the repositories of --push private')
    parser.add_argument(
        '--dry-run',
        action='store_true',
        help='evaluate and check everything, tell what would be published, '
        'and write and upload nothing')
    return parser.parse_args()


@orderly_end()
def main():
    args = parse_args()
    with user_errors():
        from mmengine.logging import MMLogger

        from mcod_plugin.publish import (check_push, publish_cohort, push,
                                         summary)

        # What timm's networks have to say while they are built.
        MMLogger.get_current_instance().setLevel(logging.WARNING)
        if args.push is not None:
            check_push(args.push, args.license)
        with busy('Writing the files, and evaluating them'):
            publication = publish_cohort(args.work_dir, args.out, args.solo,
                                         args.checkpoint, args.push,
                                         args.data_name, args.data_terms,
                                         args.license, args.dry_run)
        print(summary(publication, args.out, args.dry_run))
        if args.push is not None:
            done = 'Would be uploaded' if args.dry_run else 'Uploaded'
            for repo in push(publication, args.out, args.push, args.private,
                             args.dry_run):
                print(f'{done} to {repo}.')


if __name__ == '__main__':
    main()
