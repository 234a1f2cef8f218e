"""The step of a study on a lent machine, with real but tiny runs."""
import io
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from types import SimpleNamespace

import pytest

from ...tiny import ROOT, TINY

STEP = str(ROOT / 'benchmarks' / 'gpu' / 'step.py')

COHORT = f'{TINY}train_cfg["max_epochs"] = 8\n'
STUDY = """\
config = 'cohort.py'
methods = dict(solo='solo', mcod='mcod')
seeds = [0]
"""
# What equal runs may differ in; the code, too, which others may commit.
TIMES = ('train_seconds', 'seconds', 'date', 'peak_memory_bytes', 'commit',
         'dirty')


def make_machine(folder):
    folder.mkdir()
    (folder / 'cohort.py').write_text(COHORT)
    (folder / 'study.py').write_text(STUDY)
    return folder


def step(machine, *args):
    """Be the tool, whose trainings alone are processes of their own."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(machine)
        patch.setattr(sys, 'argv', [STEP, 'study.py', *args])
        with redirect_stdout(out), redirect_stderr(err):
            try:
                runpy.run_path(STEP)['main']()
                code = 0
            except SystemExit as error:
                code = error.code
    return SimpleNamespace(code=code, out=out.getvalue(), err=err.getvalue())


def records(machine):
    found = {}
    for path in sorted((machine / 'study').glob('*.json')):
        found[path.stem] = json.loads(path.read_text())
        for key in TIMES:
            del found[path.stem][key]
    return found


@pytest.fixture(scope='module')
def journey(tmp_path_factory):
    """A study that is stopped on one machine and goes on on another: the
    folders of the three, an unbroken one among them, and what was printed."""
    folder = tmp_path_factory.mktemp('journey')
    whole, first, second = [
        make_machine(folder / name) for name in ('whole', 'first', 'second')
    ]
    unbroken = step(whole, '--only', 'mcod_*')
    # Stopped within the second run.
    process = subprocess.Popen(
        [sys.executable, STEP, 'study.py', '--out',
         str(folder / 'state')],
        cwd=first,
        stdout=subprocess.PIPE,
        text=True)
    work_dir = first / 'work_dirs' / 'studies' / 'study' / 'mcod_seed0'
    while not (work_dir / 'epoch_2.pth').exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    stopped, _ = process.communicate()
    shutil.rmtree(first)
    resumed = step(second, '--state', '../state', '--out', 'state')
    return SimpleNamespace(
        folder=folder,
        whole=whole,
        second=second,
        unbroken=unbroken,
        stopped=SimpleNamespace(code=process.returncode, out=stopped),
        resumed=resumed)


def test_as_if_nothing_had_happened(journey):
    assert journey.unbroken.code == 0, journey.unbroken.err
    assert journey.resumed.code == 0, journey.resumed.err
    found = records(journey.second)
    assert sorted(found) == ['mcod_seed0', 'solo_seed0']
    assert found['mcod_seed0']['curves']['epoch'] == list(range(1, 9))
    assert found['mcod_seed0'] == records(journey.whole)['mcod_seed0']


def test_stopped_while_training(journey):
    assert journey.stopped.code == 143
    text = (journey.folder / 'state' / 'status.md').read_text()
    assert text in journey.stopped.out
    assert '| solo_seed0 | done |' in text
    epoch = int(re.search(r'mcod_seed0 \| begun, (\d) of 8 epochs', text)[1])
    assert epoch >= 2
    assert sorted(os.listdir(journey.folder / 'state')) == [
        'checkpoints.000', 'manifest.json', 'results.000', 'status.md'
    ]
    # It went on and did not begin anew.
    log = (journey.second / 'work_dirs' / 'studies' / 'study' / 'mcod_seed0' /
           'train.log').read_text()
    epochs = re.findall(r'Epoch\(train\) +\[(\d)\]', log)
    assert epochs[0] == str(epoch + 1) and epochs[-1] == '8'


def test_finished_state(journey):
    assert '2 of 2 runs are done' in journey.resumed.out
    assert sorted(os.listdir(journey.second / 'state')) == [
        'manifest.json', 'results.000', 'status.md'
    ]


def test_bring_results_home(journey, tmp_path):
    home = make_machine(tmp_path / 'home')
    state = str(journey.second / 'state')
    done = step(home, '--state', state, '--results-only')
    assert done.code == 0, done.err
    assert '2 of 2 runs are done' in done.out
    assert records(home) == records(journey.second)
    assert not (home / 'work_dirs').exists()


@pytest.fixture
def git(tmp_path, monkeypatch):
    """A repository elsewhere, whose working tree is that of this code."""
    monkeypatch.setenv('GIT_DIR', str(tmp_path / 'repo.git'))
    monkeypatch.setenv('GIT_WORK_TREE', str(ROOT))

    def git(*args):
        return subprocess.run(
            ['git', '-c', 'user.name=x', '-c', 'user.email=x', *args],
            cwd=ROOT,
            capture_output=True,
            check=True,
            text=True).stdout.strip()

    return git


@pytest.mark.skipif(shutil.which('git') is None, reason='for Git')
def test_code_that_records_cannot_tell(git, tmp_path):
    machine = make_machine(tmp_path / 'machine')

    def warnings():
        # Too short to train anything.
        done = step(machine, '--minutes', '1e-9')
        assert done.code == 0
        return [
            line for line in done.err.splitlines()
            if line.startswith('warning: the records')
        ]

    (line, ) = warnings()
    assert 'no commit' in line
    git('init', '--quiet')
    git('add', 'setup.py', 'mcod_plugin/__init__.py')
    git('commit', '--quiet', '--message', 'x')
    assert warnings() == []
    git('rm', '--quiet', '--cached', 'setup.py')
    (line, ) = warnings()
    assert 'changed code' in line and git('rev-parse', 'HEAD')[:7] in line


@pytest.mark.parametrize('arguments, words', [
    (('--minutes', '0'), ('--minutes', '0')),
    (('--jobs', '0'), ('--jobs', '0')),
    (('--results-only', ), ('--results-only', '--state')),
    (('--only', 'dml*'), ('--only dml*', 'solo_seed0')),
    (('--out', '.'), ('cohort.py', )),
    (('--state', 'gone'), ('manifest.json', 'gone')),
    (('--state', '../state', '--cfg-options', 'train_cfg.max_epochs=9'),
     ('solo_seed0', 'another config')),
])
def test_mistakes(journey, tmp_path, arguments, words):
    machine = make_machine(tmp_path / 'machine')
    shutil.copytree(journey.folder / 'state', tmp_path / 'state')
    done = step(machine, *arguments)
    assert done.code == 2
    assert len(done.err.splitlines()) == 1
    for word in words:
        assert word in done.err
    assert sorted(os.listdir(machine)) == ['cohort.py', 'study.py']
