from multiprocessing import Pipe
from pathlib import Path

import pytest

from speed.step_timer import StepTimer


@pytest.fixture
def sample_cases(monkeypatch):
    """The module of cases, importable in their processes as well."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    import sample_cases
    return sample_cases


class Course:
    """A timer that has got all its answers beforehand."""

    def __init__(self, samples, seconds=.02, folder='folder'):
        self.pipe, pipe = Pipe()
        self.timer = StepTimer(pipe, seconds, str(folder))
        # until all are built, after the warm-up, and after each sample
        for _ in range(1 + samples):
            self.pipe.send(True)
        self.pipe.send(False)

    def run(self, case, *args):
        """Run a case to the end; returns what it told whenever it slept."""
        with pytest.raises(SystemExit):
            case(*args, self.timer)
        told = []
        while self.pipe.poll():
            value, error = self.pipe.recv()
            assert error is None
            told.append(value)
        return told

    def run_steps(self, step):
        """The same by a function that is called for ever."""

        def case(timer):
            while True:
                step()

        return self.run(case)


@pytest.fixture
def course():
    return Course
