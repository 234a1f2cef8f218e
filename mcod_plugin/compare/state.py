"""How far the runs of a study have come."""
import os.path as osp
from typing import Optional, Sequence

from mcod_plugin.engine.optim_wrapper import precision
from mcod_plugin.errors import ConfigError, one_line
from mcod_plugin.runs.record import read_record
from mcod_plugin.runs.tables import render
from mcod_plugin.utils.checkpoint import numbered_checkpoints, read_checkpoint
from .plan import Run
from .results import divergence

__all__ = [
    'ENDED', 'check_precision', 'failure', 'hash_file', 'latest_checkpoint',
    'overview', 'state'
]

# The states of a run that will not be trained again.
ENDED = ('done', 'failed')


def state(run: Run) -> str:
    """How far a run has come: ``'done'``, ``'failed'`` if it has diverged,
    ``'begun'`` if it will go on from a checkpoint, or ``'to do'``. Raise if
    there is a result or a work directory of the same name by another
    config."""
    if osp.isfile(run.result):
        result = _read(run)
        _check_hash(run, run.result, result.get('config_hash'))
        return 'failed' if _divergence(run, result) else 'done'
    if osp.isfile(hash_file(run)):
        with open(hash_file(run)) as file:
            _check_hash(run, run.work_dir, file.read().strip())
    return 'to do' if latest_checkpoint(run) is None else 'begun'


def overview(runs: Sequence[Run]) -> str:
    """How far each run of a study has come, see :func:`state`: a table with a
    row for each method and a column for each seed."""
    states = {(run.method, run.seed): state(run) for run in runs}
    methods = dict.fromkeys(run.method for run in runs)
    seeds = sorted({run.seed for run in runs})
    rows = [[method, *(states.get((method, seed), '') for seed in seeds)]
            for method in methods]
    return render(['method', *(f'seed {seed}' for seed in seeds)], rows)


def failure(run: Run) -> Optional[str]:
    """Why a run that has ended does not count, as a line for the user; None if
    it counts."""
    reason = _divergence(run, _read(run))
    return reason and (f'{run.name} has failed: {reason}; move away its '
                       f'result {run.result} to have it trained again')


def _read(run: Run) -> dict:
    try:
        return read_record(run.result)
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f'{run.result} is no result file: '
                          f'{one_line(error)}') from error


def _divergence(run: Run, result: dict) -> Optional[str]:
    try:
        return divergence(result)
    except (AttributeError, LookupError, TypeError):
        # What is wrong with the file is told when the report reads it.
        return None


def _check_hash(run: Run, place: str, given: Optional[str]) -> None:
    if given != run.config_hash:
        raise ConfigError(
            f'{place} was made by another config than the one that the study '
            f'now has for {run.name} (hash {given}, not {run.config_hash}); '
            'move it away, or let the study write elsewhere')


def check_precision(runs: Sequence[Run]) -> None:
    """Raise if the runs of a study, those that are done or begun and those
    that are still to be trained here, would not all be in one precision each,
    because another machine has begun it."""
    for run in runs:
        used = _used_precision(run)
        own = precision(run.cfg.get('optim_wrapper') or {})
        if used not in (None, own):
            raise ConfigError(
                f'{run.name} was trained in {used}, but here it would be in '
                f'{own}, so that the study would mix them; go on with it on a '
                f'machine that trains in {used}, or move its results '
                f'({osp.dirname(run.result)}) and work directories '
                f'({osp.dirname(run.work_dir)}) away to begin anew in {own}')


def _used_precision(run: Run) -> Optional[str]:
    """What a run has been trained in, None if it is not known."""
    if osp.isfile(run.result):
        try:
            return _read(run).get('precision')
        except ConfigError:
            return None  # Whoever needs it will tell.
    path = latest_checkpoint(run)
    if path is None:
        return None
    try:
        checkpoint = read_checkpoint(path)
    except ConfigError:
        return None
    hub = checkpoint.get('message_hub') or {}
    return hub.get('runtime_info', {}).get('precision')


def hash_file(run: Run) -> str:
    """Where a work directory says of which config it is."""
    return osp.join(run.work_dir, 'config_hash')


def latest_checkpoint(run: Run) -> Optional[str]:
    """The path of the checkpoint to go on from; None if there is none."""
    found = numbered_checkpoints(run.work_dir)
    return found[max(found)] if found else None
