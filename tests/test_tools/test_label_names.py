"""Data of image folders, by the tools."""
import shutil

import mmcv
import numpy as np
import pytest

from .conftest import TINY

FOLDERS = f"""\
{TINY}
steps = [
    dict(type='LoadImageFromFile'), dict(type='Resize', scale=32),
    dict(type='PackInputs')]
loader = dict(
    batch_size=2, num_workers=0, persistent_workers=False,
    collate_fn=dict(type='default_collate', _delete_=True))
train_dataloader = dict(
    **loader, dataset=dict(
        _delete_=True, type='CustomDataset', data_root='train',
        pipeline=steps))
val_dataloader = dict(
    **loader, dataset=dict(
        _delete_=True, type='CustomDataset', data_root='val', pipeline=steps))
test_dataloader = dict(
    **loader, dataset=dict(
        _delete_=True, type='CustomDataset', data_root='test',
        pipeline=steps))
train_cfg = dict(max_epochs=1)
"""
CLASSES = ('bird', 'cat', 'dog')
HEADS = [
    f'{part}.num_classes=3'
    for part in ('data_preprocessor', 'model.branches.resnet.head',
                 'model.branches.vgg.head')
]


def fill(folder, classes):
    shutil.rmtree(folder, ignore_errors=True)
    rng = np.random.default_rng(0)
    for name in classes:
        for number in range(2):
            image = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            mmcv.imwrite(image, str(folder / name / f'{number}.png'))


@pytest.fixture
def folders(tmp_path):
    (tmp_path / 'folders.py').write_text(FOLDERS)
    for name in ('train', 'val', 'test'):
        fill(tmp_path / name, CLASSES)
    return tmp_path


def refused(done, words):
    assert done.code == 2, done.err
    (line, ) = done.err.splitlines()
    assert line.startswith('error: ') and words in line, line


def test_folders_of_other_classes(run_tool, folders):
    """A folder that is missing moves the labels of all that follow."""

    def train(*args):
        return run_tool(
            'train', 'folders.py', '--cfg-options', *HEADS, *args, cwd=folders)

    fill(folders / 'val', ('cat', 'dog'))
    refused(
        train(), 'val_dataloader.dataset must have the classes of '
        'train_dataloader.dataset (3) in the same order, because labels are '
        'their numbers; of 2 it lacks bird; a class without images needs its '
        'folder too')
    assert not (folders / 'work_dirs').exists()
    # As many folders are not the same folders, whatever the config calls
    # them.
    fill(folders / 'val', ('cat', 'dog', 'fish'))
    names = [
        f'{loader}_dataloader.dataset.classes=[a,b,c]'
        for loader in ('train', 'val')
    ]
    refused(
        train(*names), 'val_dataloader.dataset must have the folders of '
        'train_dataloader.dataset (3) in the same order, because labels are '
        'their numbers; of 3 it lacks bird and has fish besides')
    # A class without images, as the message advises.
    fill(folders / 'val', ('cat', 'dog'))
    (folders / 'val' / 'bird').mkdir()
    done = train()
    assert done.code == 0, done.err

    # Evaluated alone: the checkpoint tells what it knows.
    checkpoint = folders / 'work_dirs' / 'folders' / 'epoch_1.pth'

    def test():
        return run_tool(
            'test',
            'folders.py',
            checkpoint,
            '--cfg-options',
            *HEADS,
            cwd=folders)

    assert test().code == 0
    fill(folders / 'test', ('cat', 'dog'))
    refused(
        test(), 'test_dataloader.dataset must have the classes of the '
        'checkpoint (3)')

    # Resumed on other data.
    fill(folders / 'train', ('ant', 'bird', 'cat'))
    fill(folders / 'val', ('ant', 'bird', 'cat'))
    refused(
        train('train_cfg.max_epochs=2', 'resume=True'),
        'train_dataloader.dataset must have the classes of the checkpoint (3) '
        'in the same order, because labels are their numbers; of 3 it lacks '
        'dog and has ant besides')
