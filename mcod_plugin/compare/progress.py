import time
from typing import Dict, Optional, Set

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from mcod_plugin.utils.units import duration

__all__ = ['StudyProgress']

# Seconds between two lines where there is no terminal.
PERIOD = 600


class StudyProgress:
    """How far the runs of a study have come, and how long they will take.

    On a terminal, a bar for all runs and one for each at work; elsewhere a
    line when a run begins or ends, and every ten minutes.

    Args:
        total (int): Number of runs that are to be trained.
        console (Console, optional): Where to print. Defaults to the standard
            output.

    Examples:
        >>> with StudyProgress(2) as progress:
        ...     progress.begin('solo_seed0')
        ...     progress.update('solo_seed0', 0.5)
        ...     progress.end('solo_seed0')
    """

    def __init__(self, total: int, console: Optional[Console] = None) -> None:
        self._total = total
        self._console = console or Console()
        self._fractions: Dict[str, float] = {}
        self._firsts: Dict[str, float] = {}
        self._ended: Set[str] = set()
        self._bars = None
        self._tasks: Dict[str, int] = {}

    def __enter__(self) -> 'StudyProgress':
        self._start = self._spoken = time.monotonic()
        if self._console.is_terminal:
            self._bars = Progress(
                TextColumn('{task.description}'),
                BarColumn(),
                TextColumn('{task.percentage:>3.0f} %'),
                TextColumn('{task.fields[note]}'),
                console=self._console)
            self._bars.start()
            self._all = self._bars.add_task('all runs', total=1, note='')
        return self

    def __exit__(self, *error) -> None:
        if self._bars is not None:
            self._bars.stop()

    def begin(self, name: str) -> None:
        """A run begins."""
        self._fractions[name] = 0.
        if self._bars is not None:
            self._tasks[name] = self._bars.add_task(name, total=1, note='')
        else:
            self._say(f'{name} begins')

    def update(self, name: str, fraction: float) -> None:
        """A run has come so far, a share from 0 to 1. What was done before it
        was resumed counts as done, but not for the speed."""
        if fraction > 0:
            self._firsts.setdefault(name, fraction)
        self._fractions[name] = fraction
        if self._bars is not None:
            self._bars.update(self._tasks[name], completed=fraction)
            self._show()
        elif time.monotonic() - self._spoken > PERIOD:
            self._say(self._at_work())

    def end(self, name: str, fault: Optional[str] = None) -> None:
        """A run has ended, well unless there is a fault to tell."""
        self._ended.add(name)
        self._fractions[name] = 1.
        self._firsts.setdefault(name, 0.)
        if self._bars is not None:
            self._bars.remove_task(self._tasks.pop(name))
            self._show()
        self._say(f'{name} is done' if fault is None else fault)

    def drop(self) -> None:
        """A run will not be trained."""
        self._total -= 1

    def skip(self, name: str) -> None:
        """A run is trained by another process."""
        self.drop()
        self._say(f'{name} is being trained by another process')

    @property
    def left(self) -> Optional[float]:
        """float | None: Seconds that are left, None while nothing is known."""
        done = sum(self._fractions.values())
        fresh = done - sum(self._firsts.values())
        if fresh <= 0:
            return None
        passed = time.monotonic() - self._start
        return passed * max(self._total - done, 0) / fresh

    def _show(self) -> None:
        self._bars.update(
            self._all,
            completed=sum(self._fractions.values()) / max(self._total, 1),
            note=self._note())

    def _note(self) -> str:
        left = self.left
        note = f'{len(self._ended)} of {self._total} runs'
        return note if left is None else f'{note}, {duration(left)} left'

    def _at_work(self) -> str:
        return ', '.join(f'{name} {100 * fraction:.0f} %'
                         for name, fraction in self._fractions.items()
                         if name not in self._ended)

    def _say(self, text: str) -> None:
        self._spoken = time.monotonic()
        clock = time.strftime('%H:%M:%S')
        self._console.print(
            f'{clock} {text} ({self._note()})',
            highlight=False,
            markup=False,
            soft_wrap=True)
