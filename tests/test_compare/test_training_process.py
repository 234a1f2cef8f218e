import fcntl
import json
from dataclasses import replace
from pathlib import Path

import pytest

from mcod_plugin.compare.training_process import TrainingProcess
from mcod_plugin.errors import ConfigError


@pytest.fixture
def training(trainer, make_run):
    run = make_run('a')
    return TrainingProcess(run, {run.name: run}, trainer, slot=0, jobs=1)


def test_what_it_leaves(training):
    run = training.run
    assert training.begin()
    folder = Path(run.work_dir)
    assert (folder / 'config_hash').read_text() == f'{run.config_hash}\n'
    assert training.fraction() == 0.
    (folder / 'progress.json').write_text('{"iter": 3, "max_iters": 4}')
    assert training.fraction() == 0.75
    assert training.fault(training.process.wait()) is None
    assert (folder / 'epoch_3.pth').exists()
    assert not list(folder.glob('*.part'))


def test_letters_of_no_known_kind(training):
    """What a library prints need not be UTF-8."""
    assert training.begin()
    training.process.wait()
    Path(training.run.result).unlink()
    with open(Path(training.run.work_dir, 'train.log'), 'ab') as file:
        file.write(b'\xff\xfe no luck\n')
    assert 'no luck' in training.fault(1)


def test_process_keeps_the_lock(training):
    """Until it ends, and no longer."""
    training.run.cfg.seconds = 60.
    assert training.begin()
    with open(Path(training.run.work_dir, 'lock')) as lock:
        with pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert not training.begin()
        training.stop()
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_finished_run_is_left_alone(training, tmp_path):
    result = Path(training.run.result)
    result.parent.mkdir()
    text = json.dumps(dict(config_hash=training.run.config_hash))
    result.write_text(text)
    assert not training.begin()
    assert result.read_text() == text
    assert not (tmp_path / 'diary').exists()


@pytest.mark.parametrize('folder', ['work', 'results'])
def test_folder_that_cannot_be_made(training, tmp_path, folder):
    (tmp_path / folder).write_text('a file')
    with pytest.raises(
            ConfigError,
            match=f'^a_seed0: .*{folder}.* cannot be written '
            r'\(.+\); choose another --work-dir'):
        training.begin()
    assert (tmp_path / folder).read_text() == 'a file'


@pytest.mark.parametrize('name', ['plain', """it's "one" \\ of these"""])
def test_checkpoints_of_other_runs_are_put_in(trainer, make_run, tmp_path,
                                              name):
    """Whatever the folder is called, the config can be read."""
    teacher = replace(make_run('solo'), work_dir=str(tmp_path / name))
    checkpoint = tmp_path / name / 'epoch_12.pth'
    checkpoint.parent.mkdir()
    for path in (checkpoint, checkpoint.with_name('epoch_9.pth')):
        path.touch()
    run = make_run(
        'kd',
        needs=[teacher.name],
        teacher=[
            dict(init="it's {checkpoint of solo}"), '{checkpoint of solo}'
        ])
    training = TrainingProcess(run, {
        run.name: run,
        teacher.name: teacher
    }, trainer, 0, 1)
    assert training.begin()
    assert training.process.wait() == 0
    told = json.loads((tmp_path / 'diary').read_text())[-1]
    assert told == [dict(init=f"it's {checkpoint}"), str(checkpoint)]
