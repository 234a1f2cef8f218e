import contextlib
import json
import os
import platform
import pty
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import mmpretrain
import pytest
import torch
from mmengine.config import Config

from mcod_plugin.utils.machine import cpu_has_bfloat16
from .conftest import ENVIRON, ROOT

NAMES = ('resnet', 'vgg', 'ensemble')
# The toolbox's own tools come with its package.
TOOLBOX = Path(mmpretrain.__file__).parent / '.mim' / 'tools'


def final_table(out):
    """Rows of the table at the end: name, last and best accuracy, epoch."""
    text = out[out.rindex('Result after'):]
    found = re.findall(
        r'│ (\w+) +│ +([\d.]+) │ +([\d.]+) \(epoch (\d+)\) │', text)
    return {
        name: (float(last), float(best), int(epoch))
        for name, last, best, epoch in found
    }


def told(out, mode):
    """The numbers by name of each line of the log, and of those below it, of
    the branches."""
    return [
        dict(re.findall(r'(\S+): +(\S+)', text.partition(']  ')[2]))
        for text in re.findall(rf'Epoch\({mode}\).*(?:\n    .*)*', out)
    ]


def validations(out):
    """Metrics of each validation in the log."""
    return [{
        key: float(value)
        for key, value in numbers.items() if '/' in key
    } for numbers in told(out, 'val')]


def losses(out):
    """Log lines of training as dicts."""
    return told(out, 'train')


def test_start(trained):
    assert trained.err == ''
    assert re.search(r'│ resnet +│ +CifarResNet +│ +[\d,]+ +│ +[\d,]+ │',
                     trained.out)
    assert re.search(r'│ vgg +│ +CifarVGG +│', trained.out)
    assert 'Distillation schedule over 2 epochs:' in trained.out
    assert re.search(r'steps +on +off +phases +weight\n +0-1 +1 +1 +1 ',
                     trained.out)


def test_log(trained):
    lines = losses(trained.out)
    assert [line['kd_weight'] for line in lines] == ['1.0000', '0.0000']
    for line in lines:
        assert 'eta' in line and 'lr' in line
        assert float(line['resnet.loss_ce']) > 0
        assert float(line['vgg.loss_ce']) > 0
    assert re.search(
        r'kd_weight: 1.0000\n    resnet.loss_ce: [^:]*  resnet.loss_kd: .*\n'
        r'    vgg.loss_ce: [^:]*  vgg.loss_kd: ', trained.out)
    assert max(map(len, trained.out.splitlines())) <= 180
    # The second epoch lies in a gap.
    assert 'resnet.loss_kd' in lines[0] and 'vgg.loss_kd' in lines[0]
    parts = sum(
        float(value) for key, value in lines[0].items() if '.loss_' in key)
    assert float(lines[0]['loss']) == pytest.approx(parts, abs=3e-4)


def test_what_is_in_the_log_file_only(trained):
    log, = trained.work_dir.glob('*/*.log')
    for text in ('Config:', 'System environment:', 'Exp name:',
                 'Hooks will be executed in the following order:'):
        assert text in log.read_text() and text not in trained.out
    before, _, _ = trained.out.partition('Epoch(train)')
    assert len(before.splitlines()) < 40


def test_final_table(trained):
    first, second = validations(trained.out)
    table = final_table(trained.out)
    assert tuple(table) == NAMES
    for name, (last, best, epoch) in table.items():
        runs = [first[f'{name}/top1'], second[f'{name}/top1']]
        assert last == pytest.approx(runs[1], abs=0.01)
        assert best == pytest.approx(max(runs), abs=0.01)
        assert epoch == runs.index(max(runs)) + 1
    assert 'The branches disagree on ' in trained.out


def next_commands(out):
    """What a run has printed after its report, as it is typed."""
    _, found, text = out.partition('\nNext:\n')
    return [shlex.split(line) for line in text.splitlines()] if found else None


def test_next_commands(trained, run_tool, tmp_path):
    test, export, publish = next_commands(trained.out)
    run = ['work_dirs/tiny/tiny.py', 'work_dirs/tiny/epoch_2.pth']
    assert test == ['python', f'{ROOT}/tools/test.py', *run]
    assert export[:4] == ['python', f'{ROOT}/tools/export.py', *run]
    assert publish[1:3] == [f'{ROOT}/tools/publish.py', 'work_dirs/tiny']
    # Its own log is not to be among those of the run.
    done = run_tool(*test[1:], '--work-dir', tmp_path, cwd=trained.folder)
    assert done.code == 0 and 'Result:' in done.out
    done = run_tool(*export[1:], '--images', '8', cwd=trained.folder)
    assert done.code == 0, done.err
    assert (trained.folder / 'exported/tiny/vgg/mmpretrain').is_dir()


def test_files(trained):
    table = final_table(trained.out)
    expected = {
        'epoch_1.pth', 'epoch_2.pth', 'tiny.py', 'last_checkpoint',
        'record.json', 'progress.json', 'curves.png'
    }
    expected |= {
        f'best_{name}_top1_epoch_{table[name][2]}.pth'
        for name in NAMES
    }
    names = {path.name for path in trained.work_dir.iterdir()}
    folders = {name for name in names if re.fullmatch(r'\d{8}_\d{6}', name)}
    assert names - folders == expected and len(folders) == 1
    assert Config.fromfile(trained.work_dir /
                           'tiny.py').train_cfg.max_epochs == 2
    for name in expected:
        if name.endswith('.pth'):
            checkpoint = torch.load(
                trained.work_dir / name, weights_only=True)
            assert {key.split('.')[1]
                    for key in checkpoint['state_dict']} == {'resnet', 'vgg'}


def test_resume_goes_on(run_tool, trained, tiny):
    done = run_tool(
        'train',
        'tiny.py',
        '--resume',
        trained.work_dir / 'epoch_1.pth',
        cwd=tiny)
    assert done.code == 0 and done.err == ''
    # as if it had never been interrupted
    assert validations(done.out) == validations(trained.out)[1:]
    assert final_table(done.out) == final_table(trained.out)
    assert 'Epoch(train) [1]' not in done.out
    # By its config the last checkpoint is tested, and another run does not go
    # on from this one.
    config = tiny / 'work_dirs' / 'tiny' / 'tiny.py'
    assert re.findall('(?m)^(load_from|resume) = (.*)$', config.read_text(
    )) == [('load_from', 'None'), ('resume', 'True')]
    done = run_tool('test', config, config.with_name('epoch_2.pth'), cwd=tiny)
    assert done.code == 0 and done.err == ''
    assert 'ensemble/top1' in done.out and 'esumed' not in done.out


# Images one by one, from two processes.
WORKERS = """\
_base_ = ['tiny.py']
train_dataloader = dict(num_workers=2, dataset=dict(
    _delete_=True, type='mcod_plugin.Digits', split='train', size=32,
    pipeline=[dict(type='PackInputs')]))
train_cfg = dict(max_epochs=100)
default_hooks = dict(logger=dict(interval=1))
"""


def begin(folder, *args):
    """Start a training as from a terminal, in a session of its own."""
    return subprocess.Popen(
        [
            sys.executable,
            str(ROOT / 'tools' / 'train.py'), 'workers.py', *args
        ],
        cwd=folder,
        env={
            **ENVIRON, 'PYTHONUNBUFFERED': '1'
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Whatever the tests were started with.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.
                                         default_int_handler))


def on_terminal(folder, *args, stop_at=None):
    """What a training prints on a terminal, and its exit code. It is stopped
    by Ctrl-C when it has printed a text."""
    ours, its = pty.openpty()
    process = subprocess.Popen(
        [sys.executable,
         str(ROOT / 'tools' / 'train.py'), *args],
        cwd=folder,
        env={
            **ENVIRON, 'TERM': 'xterm',
            'COLUMNS': '150'
        },
        stdout=its,
        stderr=its)
    os.close(its)
    out = b''
    # Linux raises as the other end is closed.
    with contextlib.suppress(OSError):
        while part := os.read(ours, 4096):
            out += part
            if stop_at and stop_at in out.decode(errors='ignore'):
                process.send_signal(signal.SIGINT)
                stop_at = None
    os.close(ours)
    return process.wait(), out.decode()


def test_progress_bar(tiny, trained):
    """On a terminal, in place of the lines of steps."""
    options = [
        'tiny.py', '--cfg-options', 'train_cfg.max_epochs=20',
        'train_cfg.val_interval=10', 'default_hooks.logger.interval=1'
    ]
    code, out = on_terminal(tiny, *options)
    assert code == 0
    found = re.findall(
        r'epoch (\d+)/20 .*? (\d+) % (\d+) s left, loss [\d.]+', out)
    assert found
    for epoch, percent, _ in found:
        assert abs(int(percent) - 5 * (int(epoch) - 0.5)) < 4
    assert len(re.findall('ensemble/top1: ', out)) == 2
    assert 'Epoch(train)' not in out and 'Next:' in out
    # The cursor is there again.
    assert out.rindex('\x1b[?25h') > out.rindex('\x1b[?25l')
    log, = (tiny / 'work_dirs' / 'tiny').glob('*/*.log')
    assert 'Epoch(train)' in log.read_text()
    assert '\x1b' not in trained.out and ' left' not in trained.out
    code, out = on_terminal(tiny, *options, 'default_hooks.progress_bar=None',
                            'train_cfg.max_epochs=1')
    assert code == 0 and 'Epoch(train)' in out and ' left' not in out


def test_stopped_on_a_terminal(tiny):
    """The bar is gone, and nothing breaks the line with the command, which is
    longer than the terminal is wide."""
    options = ['train_cfg.max_epochs=200', 'default_hooks.logger.interval=1']
    code, out = on_terminal(
        tiny, 'tiny.py', '--cfg-options', *options, stop_at=' left')
    assert code == 130
    last = out.rpartition('\x1b[?25h')[2]
    found = re.search(r'stopped by SIGINT after [^\r\n]*', last)
    assert len(found[0]) > 150 and ' left' not in last
    command = found[0].partition('go on with: ')[2]
    assert shlex.split(command)[2:6] == ['tiny.py', '--cfg-options', *options]


def test_another_run_in_the_same_folder(run_tool, tiny):
    """It is told, since the files of both would be mixed."""
    told = 'holds another run, up to epoch_1.pth'
    args = ['train', 'tiny.py', '--cfg-options', 'train_cfg.max_epochs=1']
    for again, words in ((False, 0), (True, 1)):
        done = run_tool(*args, cwd=tiny)
        assert done.code == 0 and done.out.count(told) == words, again
    args[-1] = 'train_cfg.max_epochs=2'
    done = run_tool(*args, '--resume', cwd=tiny)
    assert done.code == 0 and told not in done.out


def members(session):
    """The processes of a session."""
    found = []
    for path in Path('/proc').glob('[0-9]*'):
        try:
            stat = (path / 'stat').read_text().rpartition(')')[2].split()
        except OSError:
            continue
        if stat[3] == str(session) and stat[0] != 'Z':
            found.append(int(path.name))
    return found


@pytest.mark.parametrize('number, whole', [(signal.SIGTERM, False),
                                           (signal.SIGTERM, True),
                                           (signal.SIGINT, True)])
def test_stopped(tiny, number, whole):
    """By ``kill``, by what ends all its processes, and by Ctrl-C."""
    (tiny / 'workers.py').write_text(WORKERS)
    process = begin(tiny)
    for line in process.stdout:
        if 'Epoch(train)' in line:
            break
    assert len(members(process.pid)) == 3
    if whole:
        os.killpg(process.pid, number)
        # Launchers repeat it.
        process.send_signal(number)
    else:
        process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert err == (
        f'stopped by {number.name} after 0 of 100 epochs and before its first '
        f'checkpoint; go on with: python {ROOT}/tools/train.py workers.py\n')
    assert members(process.pid) == []
    assert not list(tiny.rglob('*.part'))


def test_stopped_and_resumed(tiny):
    """As the line says that it tells."""
    (tiny / 'workers.py').write_text(WORKERS)
    process = begin(tiny, '--resume', '--cfg-options', 'custom_hooks.0.on=2')
    work_dir = tiny / 'work_dirs' / 'workers'
    while not (work_dir / 'last_checkpoint').exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    found = re.fullmatch(
        r'stopped by SIGTERM after (\d+) of 100 epochs; the last checkpoint '
        rf'is {work_dir}/epoch_(\d+).pth; go on with: python (\S+/train.py '
        r'workers.py --cfg-options custom_hooks.0.on=2 --resume)\n', err)
    assert found and not list(work_dir.glob('*.part'))
    done = int(found[2])
    assert int(found[1]) in (done, done - 1)
    done = subprocess.run([
        sys.executable, *found[3].split(' '), '--cfg-options',
        f'train_cfg.max_epochs={done}'
    ],
                          cwd=tiny,
                          env=ENVIRON,
                          capture_output=True,
                          text=True)
    assert done.returncode == 0 and done.stderr == ''


def test_solo(run_tool, tiny):
    done = run_tool(
        'train',
        'tiny.py',
        '--work-dir',
        'solo',
        '--cfg-options',
        'custom_hooks.0.weight=0,0',
        'train_cfg.max_epochs=1',
        cwd=tiny)
    assert done.code == 0 and done.err == ''
    assert 'loss_kd' not in done.out
    (line, ) = losses(done.out)
    assert line['kd_weight'] == '0.0000'
    assert not (tiny / 'work_dirs').exists()
    assert (tiny / 'solo' / 'epoch_1.pth').is_file()


def test_method(run_tool, tiny):
    """It replaces the config's, and ``--cfg-options`` what it says; what it
    trains is evaluated by the same method, or by the dumped config."""
    done = run_tool(
        'train',
        'tiny.py',
        '--method',
        'one',
        '--cfg-options',
        'train_cfg.max_epochs=1',
        'custom_hooks.0.weight=0.25,0.25',
        cwd=tiny)
    assert done.code == 0 and done.err == ''
    (line, ) = losses(done.out)
    assert line['kd_weight'] == '0.2500'
    assert float(line['teacher.loss_ce']) > 0
    work_dir = tiny / 'work_dirs' / 'tiny_one'
    dumped = Config.fromfile(work_dir / 'tiny.py')
    assert dumped.model.teacher == dict(
        type='mcod_plugin.GatedTeacher', norm=True)
    record = json.loads((work_dir / 'record.json').read_text())
    assert record['method'] == dumped.method == 'one'
    assert record['kd_weight'] == [.25]
    tables = []
    for args in (['tiny.py', '--method', 'one'], [work_dir / 'tiny.py']):
        done = run_tool(
            'test', args[0], work_dir / 'epoch_1.pth', *args[1:], cwd=tiny)
        assert done.code == 0 and done.err == ''
        tables.append(done.out[done.out.rindex('Result:'):].splitlines()[1:8])
    assert tables[0] == tables[1] and 'ensemble' in ''.join(tables[0])
    done = run_tool('test', 'tiny.py', work_dir / 'epoch_1.pth', cwd=tiny)
    assert done.code == 2 and 'it adds teacher' in done.err


def test_unknown_method(run_tool, tiny):
    done = run_tool('train', 'tiny.py', '--method', 'always', cwd=tiny)
    assert done.code == 2 and done.err == (
        'error: method always is unknown; did you mean always_on? (or the '
        'path of a .py file)\n')


def test_no_validate(run_tool, tiny):
    done = run_tool(
        'train',
        'tiny.py',
        '--no-validate',
        '--no-persistent-workers',
        '--no-pin-memory',
        '--cfg-options',
        'train_cfg.max_epochs=1',
        cwd=tiny)
    assert done.code == 0 and done.err == ''
    assert 'Epoch(val)' not in done.out
    assert (tiny / 'work_dirs' / 'tiny' / 'epoch_1.pth').is_file()


def test_amp(run_tool, trained, tiny):
    done = run_tool(
        'train',
        'tiny.py',
        '--amp',
        '--cfg-options',
        'train_cfg.max_epochs=1',
        cwd=tiny)
    assert done.code == 0 and done.err == ''
    dumped = tiny / 'work_dirs' / 'tiny' / 'tiny.py'
    assert re.search('(Autocast|Amp)OptimWrapper', dumped.read_text())
    (mixed, ), single = losses(done.out), losses(trained.out)[0]
    has = torch.cuda.is_available() or cpu_has_bfloat16()
    assert (mixed['loss'] != single['loss']) == has
    assert done.out.count('no instructions for bfloat16') == (not has)
    assert float(mixed['loss']) == pytest.approx(float(single['loss']), abs=.2)


@pytest.mark.skipif(torch.cuda.is_available(), reason='has a GPU')
@pytest.mark.skipif(
    platform.machine() not in ('x86_64', 'AMD64'), reason='of x86')
def test_amp_on_a_cpu_without_bfloat16(run_tool, tiny):
    (tiny / 'amp.py').write_text("""\
_base_ = ['tiny.py']
custom_hooks = [dict(type='mcod_plugin.RunRecordHook')]
""")
    done = run_tool(
        'train',
        'amp.py',
        '--amp',
        '--no-validate',
        '--cfg-options',
        'train_cfg.max_epochs=1',
        cwd=tiny,
        env=dict(ONEDNN_MAX_CPU_ISA='AVX2'),
        fresh=True)
    assert done.code == 0 and done.err == ''
    line, = [line for line in done.out.splitlines() if 'bfloat16, so' in line]
    assert 'WARNING' in line and 'so training is in float32' in line
    record = json.loads((tiny / 'work_dirs' / 'amp' /
                         'record.json').read_text())
    assert record['precision'] == 'float32'


def test_auto_scale_lr(run_tool, tiny):
    (tiny / 'scaled.py').write_text("_base_ = ['tiny.py']\n"
                                    'auto_scale_lr = dict(base_batch_size=64)')
    done = run_tool(
        'train',
        'scaled.py',
        '--auto-scale-lr',
        '--cfg-options',
        'train_cfg.max_epochs=1',
        cwd=tiny)
    # half the batch, half the learning rate
    assert float(losses(done.out)[0]['lr']) == pytest.approx(0.005)


def test_classifier_of_the_toolbox(run_tool, tiny):
    """A config that is no cohort, and names no runner of ours, trains too."""
    (tiny / 'alone.py').write_text("""\
_base_ = ['tiny.py']
model = dict(
    _delete_=True,
    type='ImageClassifier',
    backbone=dict(type='mcod_plugin.CifarResNet', depth=8, width=4),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=16))
val_evaluator = dict(_delete_=True, type='Accuracy')
test_evaluator = val_evaluator
custom_hooks = []
runner_type = None
train_cfg = dict(max_epochs=1)
""")
    done = run_tool('train', 'alone.py', cwd=tiny)
    assert done.code == 0, done.err
    assert 'accuracy/top1' in done.out
    # There is no branch to export.
    command, = next_commands(done.out)
    assert command[1:] == [
        f'{ROOT}/tools/test.py', 'work_dirs/alone/alone.py',
        'work_dirs/alone/epoch_1.pth'
    ]


def state_of(folder):
    """All files and folders, and when they were changed."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob('*')}


def dry_rows(out):
    """What is printed of each kind of step."""
    text = out[out.rindex('Dry run, 2 steps of each kind:'):]
    assert re.search(r'Peak memory [\w ]+: 0\.\d+ GiB', text)
    return re.findall(r'│ (.*?) +│ +([\d.]+) % │ +([\d.e-]+) s │ +(\d+) s │',
                      text)


def test_dry_run(run_tool, trained):
    """It tells what a run would, and leaves one before it alone."""
    before = state_of(trained.folder)
    done = run_tool('train', 'tiny.py', '--dry-run', cwd=trained.folder)
    assert done.code == 0 and done.err == ''
    assert state_of(trained.folder) == before
    assert re.search(r'│ resnet +│ +CifarResNet +│', done.out)
    assert 'Distillation schedule over 2 epochs:' in done.out
    rows = dry_rows(done.out)
    assert [row[:2] for row in rows] == [('distilled', '50'),
                                         ('not distilled', '50')]
    assert 'The 24 steps of the run' in done.out
    assert 'Epoch(' not in done.out and 'Next:' not in done.out


def test_dry_run_of_another_kind(run_tool, tiny):
    """By iterations, whose record goes elsewhere."""
    (tiny / 'iterations.py').write_text("""\
_base_ = ['tiny.py']
train_cfg = dict(
    _delete_=True, type='IterBasedTrainLoop', max_iters=30, val_interval=10)
param_scheduler = None
custom_hooks = [
    dict(type='mcod_plugin.DiscontinuousKDHook', on=1, gap=(2, 2),
         weight=(1, 1), by_epoch=False),
    dict(type='mcod_plugin.RunRecordHook', out='result.json')]
""")
    (tiny / 'result.json').write_text('{}')
    before = state_of(tiny)
    done = run_tool(
        'train',
        'iterations.py',
        '--dry-run',
        '--amp',
        '--work-dir',
        'runs/new',
        cwd=tiny)
    assert done.code == 0, done.err
    assert state_of(tiny) == before
    rows = dry_rows(done.out)
    assert [row[:2] for row in rows] == [('distilled', '33.3'),
                                         ('not distilled', '66.7')]


def test_dry_run_of_a_method(run_tool, tiny):
    done = run_tool(
        'train', 'tiny.py', '--dry-run', '--method', 'solo', cwd=tiny)
    assert done.code == 0, done.err
    assert [row[:2] for row in dry_rows(done.out)] == [('not distilled',
                                                        '100')]
    done = run_tool('train', 'tiny.py', '--dry-run', '--resume', cwd=tiny)
    assert done.code == 2
    assert re.fullmatch('error: --dry-run .*--resume.*\n', done.err)
    assert [path.name for path in tiny.iterdir()] == ['tiny.py']


def test_divergence(run_tool, tiny):
    """One line and exit code 1, or on without the branch."""
    options = [
        'tiny.py', '--work-dir', 'diverged', '--cfg-options',
        'model.branches.vgg.lr_mult=1e12'
    ]
    done = run_tool('train', *options, cwd=tiny)
    assert done.code == 1
    assert re.fullmatch(
        r'error: training has diverged in epoch 1, iteration [23]: the loss '
        r'of vgg is (nan|inf) at learning rate 1e\+10; .+\n', done.err)
    assert not list((tiny / 'diverged').glob('*.pth'))
    done = run_tool('train', *options, 'on_divergence=drop', cwd=tiny)
    assert done.code == 0 and done.err == ''
    assert re.search(
        'vgg is left out from now on: epoch 1, iteration [23]: the loss of '
        'vgg', done.out)
    assert re.search(r'│ vgg +│ +diverged │ +- │', done.out)
    assert set(final_table(done.out)) == {'resnet', 'ensemble'}
    # What it says can be done with the run can be done.
    assert 'publish.py' not in done.out
    command, = re.findall(r'^python \S+/export\.py (.*)$', done.out, re.M)
    done = run_tool('export', *shlex.split(command), cwd=tiny)
    assert done.code == 0, done.err
    assert re.search('vgg.* diverged in iteration [23] and was left out',
                     ' '.join(done.out.split()))
    assert os.listdir(tiny / 'exported' / 'diverged') == ['resnet']


def test_help_is_quick(run_tool, tiny):
    """It must not wait for what training imports."""
    script = tiny / 'imports.py'
    script.write_text("""\
import runpy
import sys

try:
    runpy.run_path(sys.argv.pop(1), run_name='__main__')
finally:
    print('torch' in sys.modules, 'mmengine' in sys.modules)
""")
    tool = Path(__file__).parents[2] / 'tools' / 'train.py'
    done = run_tool(str(script), tool, '--help', cwd=tiny, fresh=True)
    assert done.code == 0 and '--cfg-options' in done.out
    assert done.out.endswith('False False\n')


def test_tools_of_the_toolbox(run_tool, tiny):
    done = run_tool(
        str(TOOLBOX / 'train.py'),
        'tiny.py',
        '--no-persistent-workers',
        '--cfg-options',
        'train_cfg.max_epochs=1',
        cwd=tiny,
        fresh=True)
    assert done.code == 0, done.err
    (trained, ) = validations(done.out)
    done = run_tool(
        str(TOOLBOX / 'test.py'),
        'tiny.py',
        'work_dirs/tiny/epoch_1.pth',
        cwd=tiny,
        fresh=True)
    assert done.code == 0, done.err
    line = done.out[done.out.rindex('Epoch(test)'):]
    tested = dict(re.findall(r'(\S+/top1): ([\d.]+)', line))
    assert {key: float(value) for key, value in tested.items()} == {
        key: value
        for key, value in trained.items() if key.endswith('/top1')
    }
