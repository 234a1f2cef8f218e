"""What the processes of a run learn of each other's ends."""
import datetime

import pytest
import torch.distributed as dist

from mcod_plugin.errors import TrainingError
from mcod_plugin.utils import process_end
from mcod_plugin.utils.process_end import (ProcessEnd, begin_run, first_end,
                                           is_first_to_tell, leave_others)


def test_one_process(monkeypatch):
    monkeypatch.delenv('RANK', raising=False)
    end = first_end(ValueError('two\nlines'), 2)
    assert end == ProcessEnd(0, 'failed: two lines', 2) and end.is_own
    assert first_end(KeyboardInterrupt()) == ProcessEnd(0, 'stopped', 130)
    assert first_end(SystemExit(3)) == ProcessEnd(0, 'stopped', 1)
    # The next run is another one.
    assert first_end(KeyError('key')).outcome == 'failed: key'


@pytest.fixture
def ends(monkeypatch):
    """Is each of the processes in turn, which share what they do in a run."""
    store = dist.HashStore()
    monkeypatch.setattr(process_end, '_store', lambda: store)

    def end(rank, error, code=1):
        monkeypatch.setenv('RANK', str(rank))
        return first_end(error, code)

    return end


def test_the_first_counts(ends):
    first = ends(1, LookupError('no such shelf'))
    assert first == ProcessEnd(1, 'failed: no such shelf', 1) and first.is_own
    for error in (RuntimeError('connection closed'), SystemExit(143)):
        end = ends(0, error)
        assert end == ProcessEnd(1, 'failed: rank 1: no such shelf', 1)
        assert not end.is_own
    assert ends(1, LookupError('no such shelf')) == first


def test_each_run_has_an_end_of_its_own(ends):
    assert ends(0, LookupError('no such shelf')).outcome.endswith('shelf')
    begin_run()
    assert ends(0, LookupError('too high')).outcome == 'failed: too high'


def test_a_reason_of_all_is_of_none(ends):
    ends(2, TrainingError('it diverged'))
    assert ends(
        0, TrainingError('it diverged')).outcome == ('failed: it diverged')


def test_a_stop_is_no_failure(ends):
    ends(1, SystemExit(143))
    assert ends(0, RuntimeError('connection closed')) == ProcessEnd(
        1, 'stopped', 143)


def test_the_keeper_is_gone(monkeypatch):
    store = dist.TCPStore(
        '127.0.0.1',
        0,
        is_master=True,
        wait_for_workers=False,
        timeout=datetime.timedelta(seconds=5))
    other = dist.TCPStore(
        '127.0.0.1',
        store.port,
        is_master=False,
        wait_for_workers=False,
        timeout=datetime.timedelta(seconds=5))
    monkeypatch.setattr(process_end, '_store', lambda: other)
    monkeypatch.setenv('RANK', '1')
    assert is_first_to_tell('a reason')
    assert not is_first_to_tell('a reason')
    del store
    end = first_end(RuntimeError('connection closed'))
    assert end == ProcessEnd(0, 'failed: rank 0 is gone', 1)
    assert is_first_to_tell('a reason')
    monkeypatch.setenv('RANK', '0')
    assert first_end(ValueError('mine')).outcome == 'failed: mine'


def leave():
    """Of three processes the last one is gone."""
    if dist.get_rank() == 2:
        dist.destroy_process_group()
    else:
        leave_others()
    leave_others()
    return dist.is_initialized()


def test_leaving_others(ranks):
    assert ranks(leave, size=2) == [False, False]
    assert ranks(leave, size=3) == [False, False, False]
