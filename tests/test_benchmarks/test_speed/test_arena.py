"""Contenders take turns, and none of their processes is left behind."""
import os
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from mcod_plugin.errors import ConfigError
from speed import arena as arena_module
from speed.arena import Arena


def alive(pid):
    """Whether a process runs; one that has ended may be a zombie of init."""
    try:
        return Path(f'/proc/{pid}/stat').read_text().split()[2] != 'Z'
    except FileNotFoundError:
        return False


@pytest.fixture
def notes(tmp_path):
    return tmp_path / 'notes'


def test_only_the_one_whose_turn_it_is_does_anything(players, notes):
    contenders = {
        name: partial(players.play, notes, name)
        for name in ('one', 'two')
    }
    with Arena(contenders, seconds=.03) as arena:
        for name in contenders:
            arena.wait_until_built(name)
        assert not notes.exists()
        for name in contenders:
            assert arena.warm_up(name) == dict(
                images=2, peak_bytes=None, facts=dict(name=name))
        notes.write_text('')
        steps = {}
        for name in ('one', 'two', 'two', 'one', 'two'):
            before = len(notes.read_text().splitlines())
            seconds, done = arena.turn(name)
            time.sleep(.02)
            added = notes.read_text().splitlines()[before:]
            assert [line.split()[0] for line in added] == [name] * done
            assert seconds >= .01 * done
            # All turns of a contender are alike.
            assert done == steps.setdefault(name, done) >= 1
    pids = {int(line.split()[1]) for line in notes.read_text().splitlines()}
    assert len(pids) == 2 and not any(map(alive, pids))


@pytest.mark.skipif(torch.cuda.is_available(), reason='for forked processes')
def test_imports_are_made_once_for_all(players):
    with Arena(dict(one=players.tell), seconds=.01) as arena:
        arena.wait_until_built('one')
        assert arena.warm_up('one')['facts'] == dict(preloaded=True)


def test_error_of_a_contender(players):
    with pytest.raises(ConfigError, match='^bad: the step fails$') as caught:
        with Arena(dict(bad=players.fail), seconds=.01) as arena:
            arena.wait_until_built('bad')
            arena.warm_up('bad')
    # Where it comes from, for those who ask for a traceback.
    assert 'players.py' in str(caught.value.__cause__)


@pytest.mark.parametrize('kind, words',
                         [('die', r'bad: its process died \(SIGKILL\)'),
                          ('end', 'bad: it came to an end before')])
def test_end_of_a_contender(players, kind, words):
    with pytest.raises(ConfigError, match=words):
        with Arena(dict(bad=getattr(players, kind))) as arena:
            arena.wait_until_built('bad')
            arena.warm_up('bad')


@pytest.mark.parametrize('error', [KeyboardInterrupt, ConfigError])
def test_nothing_is_left_behind(players, notes, monkeypatch, error):
    monkeypatch.setattr(arena_module, 'GRACE', .1)
    contenders = dict(
        hangs=partial(players.hang, notes),
        other=partial(players.play, notes.with_name('other'), 'other'))
    with pytest.raises(error):
        with Arena(contenders) as arena:
            arena.wait_until_built('hangs')
            folder = arena._folder.name
            arena._go('hangs')
            raise error
    pids = list(map(int, notes.read_text().split()))
    # The process and the one that it has started.
    assert len(pids) == 2
    end = time.monotonic() + 5
    while any(map(alive, pids)) and time.monotonic() < end:
        time.sleep(.01)
    assert not any(map(alive, pids))
    assert not os.path.exists(folder)


def test_environment_is_as_before(players, notes, monkeypatch):
    monkeypatch.setenv('PYTHONWARNINGS', 'default')
    with Arena(dict(one=partial(players.play, notes, 'one'))) as arena:
        arena.wait_until_built('one')
    assert os.environ['PYTHONWARNINGS'] == 'default'
