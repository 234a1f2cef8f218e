"""All contenders, round after round."""
from typing import Callable, Dict, Iterator, List, Sequence

from rich.console import Console
from rich.progress import (BarColumn, MofNCompleteColumn, Progress, TextColumn,
                           TimeElapsedColumn, TimeRemainingColumn)

from .arena import Arena
from .score import Score
from .turns import Turns

__all__ = ['order', 'play']


def order(names: Sequence[str], rounds: int) -> Iterator[List[str]]:
    """Who has a turn when: in every round all, and every time another first.

    Args:
        names (Sequence[str]): The contenders.
        rounds (int): Number of rounds.

    Yields:
        list[str]: The contenders in the order of a round.
    """
    names = list(names)
    for index in range(rounds):
        first = index % len(names)
        yield names[first:] + names[:first]


def play(contenders: Dict[str, Callable[[Turns], None]], rounds: int,
         seconds: float, threads: int) -> Dict[str, Score]:
    """Time contenders in turns, and show how far it is.

    Args:
        contenders (dict[str, Callable]): See :class:`Arena`.
        rounds (int): Number of turns of each.
        seconds (float): The least length of a turn.
        threads (int): Number of PyTorch's threads in each process.

    Returns:
        dict[str, Score]: Their scores.

    Raises:
        ConfigError: If one of them fails.
    """
    console = Console(stderr=True)
    progress = Progress(
        TextColumn('{task.description}'),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn('eta'),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal)
    scores = {}
    with progress, Arena(contenders, seconds, threads) as arena:
        for name in progress.track(contenders, description='Building'):
            arena.wait_until_built(name)
        for name in progress.track(contenders, description='Warming up'):
            scores[name] = Score(**arena.warm_up(name))
        turns = [name for row in order(contenders, rounds) for name in row]
        for name in progress.track(turns, description='Measuring'):
            scores[name].turns.append(arena.turn(name))
    return scores
