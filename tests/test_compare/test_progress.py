import io

import pytest
from rich.console import Console

from mcod_plugin.compare.progress import StudyProgress


@pytest.fixture
def clock(monkeypatch):
    now = [100.]
    monkeypatch.setattr('time.monotonic', lambda: now[0])
    return now


def make(total, terminal=False):
    console = Console(file=io.StringIO(), width=200, force_terminal=terminal)
    return StudyProgress(total, console), console.file


def test_time_left(clock):
    progress, _ = make(4)
    with progress:
        assert progress.left is None
        progress.begin('a')
        progress.update('a', 0.)
        assert progress.left is None
        clock[0] += 60
        progress.end('a')
        # one run in a minute, three to go
        assert progress.left == pytest.approx(180)
        progress.begin('b')
        # it was half done before, which says nothing about the speed
        progress.update('b', 0.5)
        clock[0] += 30
        progress.update('b', 1.)
        assert progress.left == pytest.approx(90 * 2 / 1.5)
        progress.drop()
        assert progress.left == pytest.approx(90 * 1 / 1.5)
        progress.end('b')
        progress.begin('c')
        progress.end('c')
        assert progress.left == 0


def test_lines(clock):
    progress, out = make(2)
    with progress:
        progress.begin('a')
        progress.update('a', 0.1)
        clock[0] += 601
        progress.update('a', 0.35)
        progress.end('a')
        progress.begin('b')
        progress.end('b', 'b ended with exit code 1')
    lines = [line[9:] for line in out.getvalue().splitlines()]
    assert lines[0] == 'a begins (0 of 2 runs)'
    assert lines[1].startswith('a 35 % (0 of 2 runs, ')
    assert lines[2] == 'a is done (1 of 2 runs, 11 min left)'
    assert lines[-1] == 'b ended with exit code 1 (2 of 2 runs, 0 s left)'


def test_terminal(clock):
    progress, out = make(2, terminal=True)
    with progress:
        progress.begin('a')
        progress.update('a', 0.5)
        clock[0] += 60
        progress.end('a')
    assert 'all runs' in out.getvalue()
    assert '50 %' in out.getvalue()
    assert 'a is done (1 of 2 runs' in out.getvalue()
