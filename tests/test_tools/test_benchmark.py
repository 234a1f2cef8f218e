"""The benchmark's tool, on a cohort so small that its numbers say nothing."""
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
QUICK = ('--rounds', '2', '--seconds', '0.001', '--threads', '1')
CONTENDERS = [
    'bare/resnet', 'bare/vgg', 'step/on', 'step/off', 'runner/on',
    'solo/resnet', 'solo/vgg', 'data/cohort', 'data/toolbox-0',
    'data/toolbox-1', 'val/cohort', 'val/resnet', 'val/vgg'
]
RATIOS = [
    'runner/on : sum of bare', 'step/on : sum of bare', 'step/on : step/off',
    'epoch of cohort : epochs of solos',
    'images/s of data/cohort : best of data/toolbox',
    'memory of step/on : sum of bare'
]


def first_cells(out):
    """The first cell of each row of all tables."""
    return re.findall(r'^│ (.+?) +│', out, flags=re.MULTILINE)


def processes():
    """The processes that benchmarks have started."""
    lines = subprocess.run(['ps', '-eo', 'pid,args'],
                           capture_output=True,
                           text=True).stdout.splitlines()
    return {
        int(line.split()[0])
        for line in lines if 'mcod_plugin.benchmark.preload' in line
    }


def test_all_contenders(run_tool, tiny):
    done = run_tool(
        'benchmark',
        'tiny.py',
        *QUICK,
        '--solo-workers',
        '1',
        '--out',
        'out.json',
        cwd=tiny,
        fresh=True)
    assert done.code == 0, done.err
    assert done.err == ''
    assert first_cells(done.out) == CONTENDERS + RATIOS
    assert sorted(os.listdir(tiny)) == ['out.json', 'tiny.py']
    report = json.loads((tiny / 'out.json').read_text())
    assert {
        'config', 'config_sha256', 'device', 'versions', 'commit', 'dirty',
        'date', 'memory_formats', 'compile'
    } <= report.keys()
    expected = dict(
        config='tiny.py',
        threads=1,
        precision='float32',
        batch_size=32,
        rounds=2,
        seconds=.001,
        solo_workers=1,
        growth_branch=None,
        iterations_per_epoch=12,
        val_images=40)
    assert {key: report[key] for key in expected} == expected
    assert {'torch', 'torchvision', 'timm', 'mmengine',
            'mmpretrain'} <= report['versions'].keys()
    assert len(report['config_sha256']) == 64
    assert list(report['contenders']) == CONTENDERS
    for name, row in report['contenders'].items():
        assert len(row['turns']) == 2
        for turn in row['turns']:
            assert turn['seconds'] > 0 and turn['steps'] >= 1
        assert row['milliseconds'] > 0 and row['images_per_second'] > 0
        images = 8 if name.startswith('val/') else 32
        assert row['images_per_step'] == images, name
    assert list(report['ratios']) == RATIOS
    for row in report['ratios'].values():
        assert min(row['values']) == row['min'] <= row['median'] <= row['max']


def test_growth(run_tool, tiny):
    done = run_tool(
        'benchmark',
        'tiny.py',
        *QUICK,
        '--growth',
        '--growth-branch',
        'vgg',
        '--only',
        'growth/[12]',
        '--amp',
        '--out',
        'out.json',
        cwd=tiny)
    assert done.code == 0, done.err
    assert first_cells(done.out) == [
        'growth/1', 'growth/2', 'time of 2 : 2 x time of 1',
        'memory of 2 : 2 x memory of 1'
    ]
    report = json.loads((tiny / 'out.json').read_text())
    assert report['growth_branch'] == 'vgg'
    assert report['precision'] == 'bfloat16'
    assert list(report['contenders']['growth/2']['memory_formats']) == [
        'vgg_0', 'vgg_1'
    ]


@pytest.mark.parametrize('args, words', [
    (['--rounds', '0'], ['--rounds', 'at least 1', 'got 0']),
    (['--rounds', 'x'], ['--rounds', "'x'"]),
    (['--seconds', '0'], ['--seconds', 'greater than 0', 'got 0']),
    (['--threads', '0'], ['--threads', 'at least 1', 'got 0']),
    (['--solo-workers', '-1'], ['--solo-workers', 'at least 0', 'got -1']),
    (['--only', 'step/*', 'steps/*'
      ], ['--only steps/*', 'matches no contender', 'step/on', 'solo/vgg']),
    (['--growth-branch', 'vgg'], ['--growth-branch needs --growth']),
    (['--growth', '--growth-branch', 'vg'
      ], ['--growth-branch', 'resnet, vgg', "'vg'"]),
    (['--out', 'no/out.json'], ['--out no/out.json', 'does not exist']),
    (['--out', 'out.txt'], ['--out', '.json', 'out.txt']),
    (['--launcher', 'mpi'], ['--launcher mpi', 'leave it out']),
    (['--cfg-options', 'model.branches=None'
      ], ['model.branches', 'at least one', 'None']),
    ([
        '--only', 'step/on', '--cfg-options',
        'model.branches.resnet.backbone.depth=9'
    ], ['step/on', 'model.branches.resnet.backbone', 'depth', '9']),
])
def test_mistakes(run_tool, tiny, args, words):
    done = run_tool('benchmark', 'tiny.py', *args, cwd=tiny)
    assert done.code == 2
    assert done.err.startswith('error: ') and done.err.count('\n') == 1
    for word in words:
        assert word in done.err, done.err
    assert os.listdir(tiny) == ['tiny.py']


def test_death_of_a_contender(run_tool, tiny):
    # It dies on its first image, but not in the process of the tool.
    (tiny / 'deadly_data.py').write_text("""\
import multiprocessing
import os
import signal

from mcod_plugin.datasets import Digits


class DeadlyDigits(Digits):

    def __getitem__(self, index):
        if multiprocessing.parent_process() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)
""")
    (tiny / 'deadly.py').write_text("""\
_base_ = ['tiny.py']
train_dataloader = dict(dataset=dict(
    _delete_=True, type='deadly_data.DeadlyDigits', size=32,
    pipeline=[dict(type='PackInputs')]),
    collate_fn=dict(type='default_collate'))
custom_imports = dict(imports=['mcod_plugin', 'deadly_data'])
""")
    before = processes()
    path = os.pathsep.join((str(tiny), os.environ.get('PYTHONPATH', '')))
    done = run_tool(
        'benchmark',
        'deadly.py',
        '--only',
        'step/off',
        '--out',
        'out.json',
        cwd=tiny,
        env=dict(PYTHONPATH=path),
        fresh=True)
    assert done.code == 2
    assert done.err == 'error: step/off: its process died (SIGKILL)\n'
    assert not (tiny / 'out.json').exists()
    assert processes() <= before


@pytest.mark.parametrize('number, code', [(signal.SIGINT, 130),
                                          (signal.SIGTERM, 143)])
def test_stopped_by_the_user(tiny, number, code):
    before = processes()
    process = subprocess.Popen(
        [
            sys.executable,
            str(ROOT / 'tools' / 'benchmark.py'), 'tiny.py', '--rounds',
            '1000000', '--only', 'step/off', '--threads', '1'
        ],
        cwd=tiny,
        env=dict(os.environ, TMPDIR=str(tiny)),
        stderr=subprocess.PIPE,
        text=True,
        # Where the tests run in the background, Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    end = time.monotonic() + 60
    while not list(tiny.glob('mcod_benchmark_*/0/output')):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(.05)
    process.send_signal(number)
    assert process.communicate()[1] == ''
    assert process.returncode == code
    assert os.listdir(tiny) == ['tiny.py']
    end = time.monotonic() + 5
    while not processes() <= before and time.monotonic() < end:
        time.sleep(.05)
    assert processes() <= before
