from typing import Sequence

from mcod_plugin.utils.table import render
from .plan import Run
from .state import state

__all__ = ['overview']


def overview(runs: Sequence[Run]) -> str:
    """How far each run of a study has come.

    Args:
        runs (Sequence[Run]): The runs.

    Returns:
        str: A table with a row for each method and a column for each seed.

    Raises:
        ConfigError: If a run has a result by another config.
    """
    states = {(run.method, run.seed): state(run) for run in runs}
    methods = dict.fromkeys(run.method for run in runs)
    seeds = sorted({run.seed for run in runs})
    rows = [[method, *(states.get((method, seed), '') for seed in seeds)]
            for method in methods]
    return render(['method', *(f'seed {seed}' for seed in seeds)], rows)
