"""Exporting from the command line."""
import json
import os
import re
from pathlib import Path

import mmpretrain
import pytest
import torch

from mcod_plugin.export import FORMATS

TEST = Path(mmpretrain.__file__).parent / '.mim' / 'tools' / 'test.py'


@pytest.fixture
def export(run_tool, trained, tiny):
    """Runs the tool on the last checkpoint of a tiny run."""

    def run(*args, checkpoint=trained.work_dir / 'epoch_2.pth'):
        return run_tool(
            'export', 'tiny.py', checkpoint, *args, '--out', 'out', cwd=tiny)

    return run


def test_the_toolbox_tests_it(export, run_tool, tiny, trained):
    done = export('--branch', 'vgg', '--format', 'mmpretrain')
    assert done.code == 0 and done.err == '', done.err
    assert sorted(os.listdir(tiny)) == ['out', 'tiny.py']
    row = re.search(
        r'│ vgg +│ mmpretrain │ +config.py [\d.]+ KiB │ +([\d.e+-]+) │ '
        r'+([\d.]+) │ +([\d.]+) │', done.out)
    assert float(row[1]) <= 1e-5
    last = re.findall(r'vgg/top1: ([\d.]+)', trained.out)[-1]
    assert row[2] == row[3] == f'{float(last):.2f}'
    assert 'on 40 of 40 images of val_dataloader.' in done.out
    assert 'vgg: have parts of mcod_plugin' in done.out

    folder = tiny / 'out' / 'vgg' / 'mmpretrain'
    done = run_tool(
        str(TEST),
        folder / 'config.py',
        folder / 'model.pth',
        '--out',
        'metrics.json',
        '--out-item',
        'metrics',
        cwd=tiny)
    assert done.code == 0, done.err
    metrics = json.loads((tiny / 'metrics.json').read_text())
    assert metrics['accuracy/top1'] == pytest.approx(float(last), abs=1e-3)


@pytest.mark.parametrize('args, parts', [
    (['--branch', 'vg', '--format', 'onnx'
      ], ['--branch vg', 'resnet, vgg', 'did you mean vgg?']),
    (['--branch', 'all', '--format', 'torchscript'], ['torchscript', *FORMATS
                                                      ]),
    (['--branch', 'all'], ['--format']),
    (['--branch', 'vgg', '--format', 'timm'
      ], ['--format timm', 'vgg', 'mmpretrain, safetensors and onnx take it']),
    (['--branch', 'all', '--format', 'timm'
      ], ['no branch can be exported: resnet as timm: ', '; vgg as timm: ']),
    (['--branch', 'vgg', '--format', 'onnx', '--images', '0'
      ], ['--images', 'at least 1', '0']),
    (['--branch', 'vgg', '--format', 'onnx', '--launcher', 'mpi'
      ], ['--launcher mpi']),
])
def test_mistakes(export, tiny, args, parts):
    done = export(*args)
    assert done.code == 2 and done.out == ''
    assert done.err.startswith('error: ') and done.err.count('\n') == 1
    for part in parts:
        assert part in done.err
    assert os.listdir(tiny) == ['tiny.py']


def test_checkpoint_of_another_config(export, tiny):
    (tiny / 'tiny.py'
     ).write_text((tiny / 'tiny.py').read_text() +
                  'model["branches"]["resnet"]["backbone"]["width"] = 8\n')
    done = export('--branch', 'vgg', '--format', 'safetensors')
    assert done.code == 2 and done.err.count('\n') == 1
    assert 'the checkpoint is not of this cohort (resnet, vgg)' in done.err
    assert os.listdir(tiny) == ['tiny.py']


@pytest.mark.parametrize('change, words', [
    (dict(state_dict=['weights']), 'state_dict must be a dict; got list'),
    (dict(meta='none'), 'meta must be a dict; got str'),
    (dict(meta=dict(dataset_meta=dict(classes=('a', 'b', 'c')))),
     'meta.dataset_meta.classes of the checkpoint must have a name for each '
     'of the 10 classes; got 3'),
])
def test_checkpoint_that_is_none(export, tiny, trained, change, words):
    with open(tiny / 'tiny.py', 'a') as file:
        # Else their names would tell.
        file.write("val_dataloader['dataset']['metainfo'] = "
                   'dict(classes=None)\n')
    content = torch.load(trained.work_dir / 'epoch_2.pth', weights_only=True)
    torch.save({**content, **change}, tiny / 'odd.pth')
    before = sorted(os.listdir(tiny))
    done = export('--branch', 'vgg', '--format', 'onnx', checkpoint='odd.pth')
    assert done.code == 2 and done.out == ''
    assert done.err.startswith('error: ') and done.err.count('\n') == 1
    assert words in done.err and sorted(os.listdir(tiny)) == before


def test_help_needs_no_plugin_parts(run_tool, tiny):
    done = run_tool('export', '--help', cwd=tiny)
    assert done.code == 0
    for name in FORMATS:
        assert name in done.out
