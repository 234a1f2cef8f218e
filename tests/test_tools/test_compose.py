"""Pairs of the toolbox's own configs, composed and trained."""
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import mmpretrain
import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from .conftest import ENVIRON, ROOT

TOOLBOX = Path(mmpretrain.__file__).parent / '.mim' / 'tools'
CIFAR = ('mmpretrain::resnet/resnet18_8xb16_cifar10.py',
         'mmpretrain::mobilenet_v3/mobilenet-v3-small_8xb16_cifar10.py')
CNNS = ('mmpretrain::resnet/resnet18_8xb32_in1k.py',
        'mmpretrain::mobilenet_v2/mobilenet-v2_8xb32_in1k.py')
TRANSFORMERS = ('mmpretrain::vision_transformer/vit-base-p16_64xb64_in1k.py',
                'mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py')

# CIFAR-10 is not on every machine, digits are.
DIGITS = """\
_base_ = 'cohort.py'
train_dataloader = dict(
    batch_size=8, num_workers=0,
    dataset=dict(_delete_=True, type='mcod_plugin.Digits', size=32,
                 indices=16, pipeline={{_base_.train_pipeline}}))
val_dataloader = dict(
    num_workers=0,
    dataset=dict(_delete_=True, type='mcod_plugin.Digits', size=32,
                 indices=16, split='test', pipeline={{_base_.test_pipeline}}))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=1)
default_hooks = dict(logger=dict(interval=1))
# One epoch is too short for a weight that grows.
custom_hooks = [
    dict(type='mcod_plugin.DiscontinuousKDHook', weight=(1.0, 1.0))]
"""
# Networks of the same kinds, but tiny, and without epochs of warm-up.
TINY_TRANSFORMERS = """\
_base_ = 'cohort.py'
model = dict(branches=dict(
    vit_base_p16=dict(
        backbone=dict(arch=dict(
            _delete_=True, embed_dims=16, num_layers=1, num_heads=2,
            feedforward_channels=16)),
        head=dict(in_channels=16, hidden_dim=8)),
    swin_tiny=dict(
        backbone=dict(arch=dict(
            _delete_=True, embed_dims=8, depths=[1, 1, 1, 1],
            num_heads=[1, 1, 1, 1])),
        head=dict(in_channels=64))))
param_scheduler = [dict(type='CosineAnnealingLR', by_epoch=True)]
"""
SHORT = ('train_dataloader.batch_size=2', 'train_dataloader.num_workers=0',
         'val_dataloader.batch_size=2', 'val_dataloader.num_workers=0',
         'train_dataloader.dataset.data_root=images',
         'train_dataloader.dataset.ann_file=train.txt',
         'val_dataloader.dataset.data_root=images',
         'val_dataloader.dataset.ann_file=val.txt', 'train_cfg.max_epochs=1',
         'default_hooks.logger.interval=1', 'custom_hooks.0.weight=1,1',
         'default_hooks.checkpoint.save_best=ensemble/top1')


@pytest.fixture
def images(tmp_path):
    """A few random images in the layout of ImageNet."""
    rng = np.random.default_rng(0)
    for split in ('train', 'val'):
        folder = tmp_path / 'images' / split
        folder.mkdir(parents=True)
        lines = []
        for label in (0, 7, 500, 999):
            pixels = rng.integers(0, 256, (240, 260, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f'{label}.png')
            lines.append(f'{label}.png {label}\n')
        (tmp_path / 'images' / f'{split}.txt').write_text(''.join(lines))
    return tmp_path


def compose(run_tool, cwd, configs, *args):
    """What the tool prints, and the config that it writes."""
    done = run_tool('compose', *configs, '-o', 'cohort.py', *args, cwd=cwd)
    assert done.code == 0, done.err
    assert done.out.endswith('cohort.py is written; '
                             'python tools/train.py cohort.py\n')
    return done.out, Config.fromfile(cwd / 'cohort.py')


def row(out, setting):
    """The cells of a row of the table."""
    (line, ) = re.findall(rf'(?m)^│ {setting} +│(.+)│$', out)
    return [cell.strip() for cell in line.split('│')]


def check_training(done, branches):
    assert done.code == 0, done.err
    for name in branches:
        losses = re.findall(rf'{name}\.loss_ce: ([\d.]+)', done.out)
        assert len(losses) >= 2 and all(float(loss) > 0 for loss in losses)
        assert re.search(rf'{name}\.loss_kd: [\d.]+', done.out)
        assert re.search(rf'{name}/top1: [\d.]+', done.out)
    assert re.search(r'ensemble/top1: [\d.]+', done.out)


def test_cifar_by_the_tool_of_the_toolbox(run_tool, tmp_path):
    out, cfg = compose(run_tool, tmp_path, CIFAR)
    assert row(out, 'num_classes') == ['10', '10', '']
    assert row(out, 'epochs') == ['200', '200', '']
    # Of two lines, the first.
    assert row(out, 'schedule')[2] == 'as resnet18'
    assert list(cfg.model.branches) == ['resnet18', 'mobilenet_v3_small']
    (tmp_path / 'digits.py').write_text(DIGITS)
    done = run_tool(
        str(TOOLBOX / 'train.py'),
        'digits.py',
        '--no-persistent-workers',
        cwd=tmp_path)
    check_training(done, cfg.model.branches)
    # What is kept of the run needs none of the configs.
    work_dir = tmp_path / 'work_dirs' / 'digits'
    dumped = (work_dir / 'digits.py').read_text()
    assert 'branch_from' not in dumped and "'ResNet_CIFAR'" in dumped
    assert list(work_dir.glob('best_mobilenet_v3_small_top1_*.pth'))


def test_imagenet(run_tool, images):
    out, cfg = compose(run_tool, images, CNNS)
    assert row(out, 'learning rate') == ['0.1', '0.045', 'each its own']
    assert cfg.model.branches.mobilenet_v2.lr_mult == 0.45
    assert cfg.model.branches.mobilenet_v2.decay_mult == 0.4
    done = run_tool('train', 'cohort.py', '--cfg-options', *SHORT, cwd=images)
    check_training(done, cfg.model.branches)


def test_transformers(run_tool, images):
    """They have batch augmentations, and settings by parameter."""
    out, cfg = compose(run_tool, images, TRANSFORMERS, '--recipe-from',
                       'swin_tiny')
    assert row(out, 'batch augmentations') == [
        'Mixup(alpha=0.2)', 'Mixup(alpha=0.8), CutMix(alpha=1)', 'as swin_tiny'
    ]
    branch = cfg.model.branches.vit_base_p16
    # 0.003 for 4096 images, 0.001 for 1024.
    assert branch.optimizer == dict(
        type='AdamW', lr=0.00075, weight_decay=0.3)
    assert branch.clip_grad == dict(max_norm=1.0)
    assert cfg.model.branches.swin_tiny.clip_grad == dict(max_norm=5.0)
    assert len(cfg.model.train_cfg.augments) == 2
    (images / 'tiny.py').write_text(TINY_TRANSFORMERS)
    done = run_tool('train', 'tiny.py', '--cfg-options', *SHORT, cwd=images)
    check_training(done, cfg.model.branches)


@pytest.mark.parametrize('args, words', [
    (CIFAR, ['--out']),
    (('-o', 'cohort.py'), ['required: CONFIG']),
    ((*CIFAR, '-o', 'no/a.py'), ['--out no/a.py', 'does not exist']),
    ((*CIFAR, '-o', '/proc/a.py'), ['--out /proc/a.py', 'in /proc']),
    ((CIFAR[0], '-o', 'a.py'), ['at least two']),
    ((*CIFAR, '-o', 'a.py', '--names', 'a'), ['--names', '2 in all']),
    ((*CIFAR, '-o', 'a.py', '--recipe-from', '3'), ['--recipe-from', '3']),
    ((*CIFAR, '-o', 'a.py', '--frce'), ['--frce', 'did you mean --force?']),
    ((CIFAR[0], 'gone.py', '-o', 'a.py'), ['gone.py', 'no such file']),
    ((CIFAR[0], CNNS[0], '-o', 'a.py', '--names', 'a', 'b'),
     ['num_classes differ', 'a 10, b 1000']),
    ((CIFAR[0], 'mmpretrain::simclr/simclr_resnet50_16xb256-coslr-200e_'
      'in1k.py', '-o', 'a.py'), ['SimCLR', 'classifier']),
])
def test_mistakes(run_tool, tmp_path, args, words):
    done = run_tool('compose', *args, cwd=tmp_path)
    assert done.code == 2
    assert len(done.err.splitlines()) == 1 and done.out == ''
    for word in words:
        assert word in done.err
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_stopped(tmp_path, number):
    """Nothing stays of a file that was not yet checked, nor is there a
    traceback."""
    process = subprocess.Popen(
        [
            sys.executable,
            str(ROOT / 'tools' / 'compose.py'), *CIFAR, '-o', 'a.py'
        ],
        cwd=tmp_path,
        env=ENVIRON,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # Whatever the tests were started with.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.
                                         default_int_handler))
    while not os.listdir(tmp_path):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    _, err = process.communicate()
    assert process.returncode == 128 + number
    assert 'Traceback' not in err
    assert os.listdir(tmp_path) == []


def test_help_is_quick(run_tool, tmp_path):
    script = tmp_path / 'imports.py'
    script.write_text("""\
import runpy
import sys

try:
    runpy.run_path(sys.argv.pop(1), run_name='__main__')
finally:
    print('torch' in sys.modules, 'mmengine' in sys.modules)
""")
    tool = Path(__file__).parents[2] / 'tools' / 'compose.py'
    done = run_tool(str(script), tool, '--help', cwd=tmp_path, fresh=True)
    assert done.code == 0 and '--recipe-from' in done.out
    assert done.out.endswith('False False\n')
