from multiprocessing import Pipe
from pathlib import Path

import pytest

from speed.turns import Turns


@pytest.fixture
def players(monkeypatch):
    """The module of contenders, importable in their processes as well."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    import players
    return players


class Course:
    """Turns whose arena has given all its answers beforehand."""

    def __init__(self, turns, seconds=.02, folder='folder'):
        self.arena, pipe = Pipe()
        self.turns = Turns(pipe, seconds, str(folder))
        # until all are built, after the warm-up, and after each turn
        for _ in range(1 + turns):
            self.arena.send(True)
        self.arena.send(False)

    def run(self, play, *args):
        """Be a contender to the end; returns what the arena was told."""
        with pytest.raises(SystemExit):
            play(*args, self.turns)
        messages = []
        while self.arena.poll():
            messages.append(self.arena.recv())
        return messages

    def run_steps(self, step):
        """The same by a function that is called for ever."""

        def play(turns):
            while True:
                step()

        return self.run(play)


@pytest.fixture
def course():
    return Course
