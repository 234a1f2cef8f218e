"""One case runs at a time, and none of the processes is left behind."""
import os
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from mcod_plugin.errors import ConfigError
from speed import workers as workers_module
from speed.workers import Workers


def alive(pid):
    """Whether a process runs; one that has ended may be a zombie of init."""
    try:
        return Path(f'/proc/{pid}/stat').read_text().split()[2] != 'Z'
    except FileNotFoundError:
        return False


@pytest.fixture
def notes(tmp_path):
    return tmp_path / 'notes'


def test_only_one_does_anything(sample_cases, notes):
    cases = {
        name: partial(sample_cases.note_steps, notes, name)
        for name in ('one', 'two')
    }
    with Workers(cases, seconds=.03) as workers:
        for name in cases:
            workers.wait(name)
        assert not notes.exists()
        for name in cases:
            assert workers.resume(name) == dict(
                images=2, peak_bytes=None, facts=dict(name=name))
        notes.write_text('')
        steps = {}
        for name in ('one', 'two', 'two', 'one', 'two'):
            before = len(notes.read_text().splitlines())
            seconds, done = workers.resume(name)
            time.sleep(.02)
            added = notes.read_text().splitlines()[before:]
            assert [line.split()[0] for line in added] == [name] * done
            assert seconds >= .01 * done
            # All samples of a case are alike.
            assert done == steps.setdefault(name, done) >= 1
    pids = {int(line.split()[1]) for line in notes.read_text().splitlines()}
    assert len(pids) == 2 and not any(map(alive, pids))


@pytest.mark.skipif(torch.cuda.is_available(), reason='for forked processes')
def test_imports_are_made_once_for_all(sample_cases):
    with Workers(dict(one=sample_cases.tell), seconds=.01) as workers:
        workers.wait('one')
        assert workers.resume('one')['facts'] == dict(preloaded=True)


def test_error_of_a_case(sample_cases):
    with pytest.raises(ConfigError, match='^bad: the step fails$') as caught:
        with Workers(dict(bad=sample_cases.fail), seconds=.01) as workers:
            workers.wait('bad')
            workers.resume('bad')
    # Where it comes from, for those who ask for a traceback.
    assert 'sample_cases.py' in str(caught.value.__cause__)


@pytest.mark.parametrize('kind, words',
                         [('die', r'bad: its process died \(SIGKILL\)'),
                          ('end', 'bad: it came to an end before')])
def test_end_of_a_case(sample_cases, kind, words):
    with pytest.raises(ConfigError, match=words):
        with Workers(dict(bad=getattr(sample_cases, kind))) as workers:
            workers.wait('bad')
            workers.resume('bad')


@pytest.mark.parametrize('error', [KeyboardInterrupt, ConfigError])
def test_nothing_is_left_behind(sample_cases, notes, monkeypatch, error):
    monkeypatch.setattr(workers_module, 'GRACE', .1)
    cases = dict(
        hangs=partial(sample_cases.hang, notes),
        other=partial(sample_cases.note_steps, notes.with_name('other'),
                      'other'))
    with pytest.raises(error):
        with Workers(cases) as workers:
            workers.wait('hangs')
            folder = workers._folder.name
            workers._pipes['hangs'].send(True)
            raise error
    pids = list(map(int, notes.read_text().split()))
    # The process and the one that it has started.
    assert len(pids) == 2
    end = time.monotonic() + 5
    while any(map(alive, pids)) and time.monotonic() < end:
        time.sleep(.01)
    assert not any(map(alive, pids))
    assert not os.path.exists(folder)


def test_environment_is_as_before(sample_cases, notes, monkeypatch):
    monkeypatch.setenv('PYTHONWARNINGS', 'default')
    with Workers(dict(
            one=partial(sample_cases.note_steps, notes, 'one'))) as workers:
        workers.wait('one')
    assert os.environ['PYTHONWARNINGS'] == 'default'
