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
CASES = [
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


def processes(session):
    """The processes of a session."""
    return subprocess.run(['ps', 'ww', '-o', 'pid=,args=', '-s',
                           str(session)],
                          capture_output=True,
                          text=True).stdout.splitlines()


def test_all_cases(run_tool, tiny):
    done = run_tool(
        'benchmark',
        'tiny.py',
        *QUICK,
        '--solo-workers',
        '1',
        '--out',
        'out.json',
        cwd=tiny)
    assert done.code == 0, done.err
    assert done.err == ''
    assert first_cells(done.out) == CASES + RATIOS
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
    assert list(report['contenders']) == CASES
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


def test_another_setting(run_tool, tiny):
    done = run_tool(
        'benchmark',
        'tiny.py',
        *QUICK,
        '--only',
        'runner/*',
        '--vary',
        'model.memory_format=contiguous',
        'train_dataloader.batch_size=16',
        '--out',
        'out.json',
        cwd=tiny)
    assert done.code == 0, done.err
    variant = ('runner/model.memory_format=contiguous '
               'train_dataloader.batch_size=16')
    assert first_cells(
        done.out) == ['runner/on', variant, f'{variant} : runner/on']
    found = json.loads((tiny / 'out.json').read_text())['contenders']
    # The settings hold for the second one only.
    assert found['runner/on']['images_per_step'] == 32
    assert found[variant]['images_per_step'] == 16


@pytest.mark.parametrize('args, words', [
    (['--vary', 'modle.x=1'], ['modle', 'did you mean model']),
    (['--vary', 'model.teacher.fusion=x'], ['model.teacher.fusion', "'x'"]),
    (['--rounds', '0'], ['--rounds', 'at least 1', 'got 0']),
    (['--rounds', 'x'], ['--rounds', "'x'"]),
    (['--seconds', '0'], ['--seconds', 'greater than 0', 'got 0']),
    (['--threads', '0'], ['--threads', 'at least 1', 'got 0']),
    (['--solo-workers', '-1'], ['--solo-workers', 'at least 0', 'got -1']),
    (['--only', 'step/*', 'steps/*'
      ], ['--only steps/*', 'matches no case', 'step/on', 'solo/vgg']),
    (['--growth-branch', 'vgg'], ['--growth-branch needs --growth']),
    (['--growth', '--growth-branch', 'vg'
      ], ['--growth-branch', 'resnet, vgg', "'vg'"]),
    (['--out', 'no/out.json'], ['--out no/out.json', 'does not exist']),
    (['--out', 'out.txt'], ['--out', '.json', 'out.txt']),
    (['--launcher', 'mpi'], ['--launcher mpi', 'leave it out']),
    (['--cfg-options', 'model.branches=None'
      ], ['model.branches', 'at least one', 'None']),
])
def test_mistakes(run_tool, tiny, args, words):
    done = run_tool('benchmark', 'tiny.py', *args, cwd=tiny)
    assert done.code == 2
    assert done.err.startswith('error: ') and done.err.count('\n') == 1
    for word in words:
        assert word in done.err, done.err
    assert os.listdir(tiny) == ['tiny.py']


def test_stopped_by_the_user(tiny):
    process = subprocess.Popen(
        [
            sys.executable,
            str(ROOT / 'tools' / 'benchmark.py'), 'tiny.py', '--only',
            'step/off', '--rounds', '1000000'
        ],
        cwd=tiny,
        env=dict(os.environ, TMPDIR=str(tiny)),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Where the tests run in the background, Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    try:
        # It is importing what the cases need.
        while not any('speed.preload' in line
                      for line in processes(process.pid)):
            assert process.poll() is None
            time.sleep(.1)
        time.sleep(.5)
        # As a terminal does, to all of them.
        os.killpg(process.pid, signal.SIGINT)
        assert process.communicate(timeout=300)[1] == ''
    finally:
        process.kill()
    assert process.returncode == 130
    assert not list(tiny.glob('mcod_benchmark_*'))
    end = time.monotonic() + 10
    while processes(process.pid) and time.monotonic() < end:
        time.sleep(.1)
    assert processes(process.pid) == []
