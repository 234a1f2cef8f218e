import fcntl
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mcod_plugin.compare.execution import execute
from mcod_plugin.compare.state import state
from mcod_plugin.compare.training_process import TrainingProcess
from mcod_plugin.errors import ConfigError

BFLOAT16 = dict(
    type='mcod_plugin.AutocastOptimWrapper', dtype='bfloat16', optimizer={})


def diary(tmp_path):
    path = tmp_path / 'diary'
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def names(tmp_path):
    return [entry[0] for entry in diary(tmp_path)]


def test_all_runs_once(trainer, make_run, tmp_path, capsys):
    runs = [make_run('a'), make_run('b'), make_run('a', 1)]
    assert [state(run) for run in runs] == ['to do'] * 3
    assert execute(runs, runs, trainer) == []
    assert names(tmp_path) == ['a_seed0', 'b_seed0', 'a_seed1']
    assert [state(run) for run in runs] == ['done'] * 3
    out = capsys.readouterr().out
    for name in names(tmp_path):
        assert f'{name} begins' in out and f'{name} is done' in out
    assert '3 of 3 runs' in out
    assert execute(runs, runs, trainer) == []
    assert len(names(tmp_path)) == 3


def test_chosen_runs_only(trainer, make_run, tmp_path):
    runs = [make_run('a'), make_run('b')]
    execute(runs, runs[1:], trainer)
    assert names(tmp_path) == ['b_seed0']
    assert [state(run) for run in runs] == ['to do', 'done']


def test_begun_run_goes_on(trainer, make_run, tmp_path):
    run = make_run('a')
    folder = Path(run.work_dir)
    folder.mkdir(parents=True)
    for epoch in (1, 2):
        (folder / f'epoch_{epoch}.pth').touch()
    (folder / 'epoch_2.pth.part').touch()
    assert state(run) == 'begun'
    execute([run], [run], trainer)
    assert diary(tmp_path)[0][:2] == ['a_seed0', 2]


def test_run_stopped_after_its_last_checkpoint(trainer, make_run, tmp_path):
    """Its last validation or its record is missing."""
    run = make_run('a')
    folder = Path(run.work_dir)
    folder.mkdir(parents=True)
    (folder / 'epoch_3.pth').touch()
    assert state(run) == 'begun'
    execute([run], [run], trainer)
    assert diary(tmp_path)[0][:2] == ['a_seed0', 3]


@pytest.mark.parametrize('begun', [False, True])
def test_study_of_another_precision(trainer, make_run, tmp_path, begun):
    """Half of it in bfloat16, the rest would be in float32."""
    done, other = make_run('a'), make_run('b')
    if begun:
        Path(done.work_dir).mkdir(parents=True)
        info = dict(runtime_info=dict(precision='bfloat16'))
        torch.save(dict(message_hub=info), f'{done.work_dir}/epoch_1.pth')
    else:
        Path(done.result).parent.mkdir()
        record = dict(config_hash=done.config_hash, precision='bfloat16')
        Path(done.result).write_text(json.dumps(record))
    runs = [done, other]
    for chosen in ([other], runs):
        with pytest.raises(
                ConfigError,
                match='^a_seed0 was trained in bfloat16, but here it would be '
                'in float32, .* go on .* on a machine that trains in bfloat16,'
                ' or move its results .*results.* away'):
            execute(runs, chosen, trainer)
    assert names(tmp_path) == []
    if not begun:
        # There is nothing left to mix it with.
        assert execute(runs, [done], trainer) == []
    # As on a machine that has it.
    same = make_run('a', optim_wrapper=BFLOAT16)
    assert execute([same, other], [same, other], trainer) == []
    assert names(tmp_path) == (['a_seed0'] if begun else []) + ['b_seed0']


def test_jobs_share_the_machine(trainer, make_run, tmp_path, monkeypatch,
                                capsys):
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    runs = [make_run(name) for name in 'abc']
    execute(runs, runs[:2], trainer, jobs=2)
    out = capsys.readouterr().out
    assert out.index('b_seed0 begins') < out.index('seed0 is done')
    share = str(max(1, os.cpu_count() // 2))
    assert [entry[2] for entry in diary(tmp_path)] == [share, share]
    monkeypatch.setenv('OMP_NUM_THREADS', '7')
    execute(runs, runs, trainer, jobs=2)
    assert diary(tmp_path)[-1][2] == '7'


def test_time_limit(trainer, make_run, tmp_path):
    runs = [make_run('a', seconds=60.), make_run('b')]
    assert execute(runs, runs, trainer, seconds=0.1) == []
    assert [state(run) for run in runs] == ['to do', 'to do']
    assert names(tmp_path) in ([], ['a_seed0'])


def test_run_waits_for_the_checkpoint_it_needs(trainer, make_run, tmp_path):
    taught = make_run(
        'taught',
        needs=['solo_seed0'],
        teacher=dict(checkpoint=['{checkpoint of solo}']))
    solo = make_run('solo', seconds=0.2)
    assert execute([taught, solo], [taught, solo], trainer, jobs=2) == []
    (first, *_), (second, _, _, teacher) = diary(tmp_path)
    assert (first, second) == ('solo_seed0', 'taught_seed0')
    checkpoint = tmp_path / 'work' / 'solo_seed0' / 'epoch_3.pth'
    assert teacher == dict(checkpoint=[str(checkpoint)])


@pytest.mark.parametrize('why', ['not chosen', 'failed'])
def test_checkpoint_of_a_run_that_has_not_ended(trainer, make_run, tmp_path,
                                                why):
    solo = make_run('solo', error='out of luck', code=1)
    taught = make_run('taught', needs=['solo_seed0'])
    runs = [solo, taught]
    folder = Path(solo.work_dir)
    folder.mkdir(parents=True)
    (folder / 'epoch_1.pth').touch()
    faults = execute(runs, runs[why == 'not chosen':], trainer)
    assert faults[-1] == (
        'taught_seed0 needs the checkpoint of solo_seed0, which is not '
        'trained to its end; train it first, with an --only that matches it '
        'as well')
    assert len(faults) == 1 + (why != 'not chosen')
    assert 'taught_seed0' not in names(tmp_path)


def test_checkpoint_by_another_config(trainer, make_run, tmp_path):
    """It is told before anything is trained."""
    solo = make_run('solo')
    execute([solo], [solo], trainer)
    object.__setattr__(solo, 'config_hash', 'other')
    runs = [solo, make_run('other'), make_run('taught', needs=['solo_seed0'])]
    with pytest.raises(ConfigError, match='hash of solo_seed0, not other'):
        execute(runs, runs[1:], trainer)
    assert names(tmp_path) == ['solo_seed0']


def test_checkpoint_that_is_gone(trainer, make_run, tmp_path):
    solo = make_run('solo')
    taught = make_run('taught', needs=['solo_seed0'])
    other = make_run('other')
    runs = [solo, taught, other]
    execute(runs, [solo], trainer)
    for path in Path(solo.work_dir).glob('*.pth'):
        path.unlink()
    faults = execute(runs, runs, trainer)
    assert len(faults) == 1
    assert 'taught_seed0 needs the checkpoint of solo_seed0' in faults[0]
    assert f'move away its result {solo.result}' in faults[0]
    assert names(tmp_path) == ['solo_seed0', 'other_seed0']


def test_run_that_ends_elsewhere(trainer, make_run, tmp_path, capsys):
    """While this process is at another one."""
    other = make_run('b')
    runs = [make_run('a', elsewhere=other.result), other]
    with open(trainer[1], 'a') as file:
        file.write("""\
if 'elsewhere' in cfg:
    with open(cfg.elsewhere, 'w') as file:
        json.dump(dict(config_hash='hash of b_seed0'), file)
""")
    assert execute(runs, runs, trainer) == []
    assert names(tmp_path) == ['a_seed0']
    assert state(other) == 'done'
    assert 'b_seed0' not in capsys.readouterr().out


def test_run_that_fails(trainer, make_run, tmp_path):
    runs = [make_run('a', error='out of luck', code=1), make_run('b')]
    faults = execute(runs, runs, trainer)
    assert len(faults) == 1
    for words in ('a_seed0', 'exit code 1', 'out of luck', 'train.log'):
        assert words in faults[0]
    assert [state(run) for run in runs] == ['to do', 'done']


def test_mistake_in_a_setting_ends_it(trainer, make_run, tmp_path):
    runs = [make_run('a', error='error: lr is odd', code=2), make_run('b')]
    with pytest.raises(ConfigError, match='^a_seed0: lr is odd$'):
        execute(runs, runs, trainer)
    assert names(tmp_path) == ['a_seed0']


def test_result_of_another_config(trainer, make_run, tmp_path):
    run = make_run('a')
    execute([run], [run], trainer)
    other = make_run('a', config_hash='other')
    object.__setattr__(other, 'config_hash', 'other')
    with pytest.raises(ConfigError, match='hash of a_seed0, not other'):
        state(other)
    Path(run.result).unlink()
    with pytest.raises(ConfigError, match='work.*hash of a_seed0, not other'):
        state(other)
    for text in ('{', '[]'):
        Path(run.result).write_text(text)
        with pytest.raises(ConfigError, match='is no result file'):
            state(run)


SUPERVISOR = """\
import pickle, sys
from mcod_plugin.cli import orderly_end
from mcod_plugin.compare.execution import execute
runs, trainer = pickle.load(open(sys.argv[1], 'rb'))
with orderly_end():
    print(execute(runs, runs, trainer), flush=True)
"""


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGKILL])
def test_stopped_at_any_moment(trainer, make_run, tmp_path, capsys, number):
    run = make_run('a', seconds=1.)
    (tmp_path / 'runs').write_bytes(pickle.dumps(([run], trainer)))
    command = [sys.executable, '-c', SUPERVISOR, str(tmp_path / 'runs')]
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # What runs in the background of a shell ignores it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.
                                         default_int_handler))
    first = Path(run.work_dir) / 'epoch_1.pth'
    while not first.exists():
        time.sleep(0.05)
    process.send_signal(number)
    process.wait()
    if number == signal.SIGKILL:
        # The training goes on by itself, and nobody else touches it.
        assert execute([run], [run], trainer) == []
        assert ('a_seed0 is being trained by another process'
                in capsys.readouterr().out)
        while state(run) != 'done':
            time.sleep(0.05)
        assert len(names(tmp_path)) == 1
    else:
        # The training has ended with it, and goes on from its checkpoint.
        assert state(run) == 'begun'
        run = make_run('a')
        assert execute([run], [run], trainer) == []
        assert [entry[1] for entry in diary(tmp_path)] == [0, 1]


def supervise(tmp_path, runs, trainer):
    """Another process that trains the study, and is at its first run."""
    (tmp_path / 'runs').write_bytes(pickle.dumps((runs, trainer)))
    process = subprocess.Popen(
        [sys.executable, '-c', SUPERVISOR,
         str(tmp_path / 'runs')],
        stdout=subprocess.DEVNULL)
    while not names(tmp_path):
        time.sleep(0.05)
    return process


def test_two_processes_share_a_study(trainer, make_run, tmp_path):
    """Each run is trained once, and what needs another's run waits for it."""
    runs = [
        make_run('a', seconds=1.),
        make_run('b'),
        make_run('c', needs=['a_seed0'])
    ]
    process = supervise(tmp_path, runs[:1], trainer)
    assert execute(runs, runs, trainer) == []
    assert process.wait() == 0
    assert names(tmp_path) == ['a_seed0', 'b_seed0', 'c_seed0']
    assert [state(run) for run in runs] == ['done'] * 3


def test_run_that_another_process_gives_up(trainer, make_run, tmp_path):
    run, other = make_run('a', seconds=1.), make_run('b', seconds=1.5)
    process = supervise(tmp_path, [run], trainer)
    (tmp_path / 'stop').write_text(
        'import os, signal, sys, time\n'
        'time.sleep(1.5)\n'
        'os.kill(int(sys.argv[1]), signal.SIGTERM)\n')
    subprocess.Popen([sys.executable, tmp_path / 'stop', str(process.pid)])
    assert execute([run, other], [run, other], trainer) == []
    assert process.wait() != 0
    assert names(tmp_path) == ['a_seed0', 'b_seed0', 'a_seed0']
    assert state(run) == 'done'


TRY = """\
import fcntl, sys
file = open(sys.argv[1], 'a')
try:
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    print('taken')
"""


def test_lock_of_a_network_file_system(trainer, make_run, monkeypatch):
    """It is of a process, not of an open file, and none of its child's."""
    monkeypatch.setattr(fcntl, 'flock', fcntl.lockf)
    run = make_run('a', seconds=.5)
    training = TrainingProcess(run, {}, trainer, 0, 1)

    def attempt():
        done = subprocess.run(
            [sys.executable, '-c', TRY, f'{run.work_dir}/lock'],
            capture_output=True,
            text=True)
        return done.stdout.strip()

    assert training.begin()
    assert attempt() == 'taken'
    training.process.wait()
    training.close()
    assert attempt() == ''


DIVERGED = dict(
    diverged=dict(vgg=dict(epoch=1, iteration=7)), train_loss={}, last={})


def test_run_that_has_diverged(trainer, make_run, tmp_path, capsys):
    """It is told each time, not repeated, and nobody learns from it."""
    run = make_run('a', content=DIVERGED)
    other = make_run('b', needs=['a_seed0'])
    for _ in range(2):
        faults = execute([run, other], [run, other], trainer)
        assert len(faults) == 2
        assert faults[0] == (
            'a_seed0 has failed: vgg diverged in epoch 1, iteration 7; move '
            f'away its result {run.result} to have it trained again')
        assert 'b_seed0 needs the checkpoint of a_seed0, which has' in (
            faults[1])
        assert state(run) == 'failed' and state(other) == 'to do'
    assert names(tmp_path) == ['a_seed0']
    assert 'a_seed0 is done' not in capsys.readouterr().out


def test_run_that_stops_as_it_diverges(trainer, make_run):
    run = make_run('a', error='error: training has diverged', code=1)
    [fault] = execute([run], [run], trainer)
    assert fault.startswith(
        'a_seed0 ended with exit code 1 (error: training has diverged); see ')
    assert state(run) == 'to do'
