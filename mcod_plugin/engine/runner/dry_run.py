"""The first steps of a run, to tell what all of it will take."""
import time
from itertools import chain, repeat
from typing import Dict, FrozenSet, Iterator, Tuple

import torch
from mmengine.hooks import CheckpointHook, LoggerHook
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from mmpretrain.utils import get_ori_model

from mcod_plugin.datasets.repeated_batches import batches_per_pass
from mcod_plugin.errors import ConfigError, one_line
from mcod_plugin.runs.tables import render
from mcod_plugin.utils.machine import GIB, peak_memory
from mcod_plugin.utils.units import duration
from ..hooks.discontinuous_kd_hook import DiscontinuousKDHook
from ..hooks.progress_bar_hook import ProgressBarHook
from ..hooks.run_record_hook import RunRecordHook

__all__ = ['dry_run', 'kinds_of_steps']

# Of each kind; the last one is timed.
STEPS = 2
# Hooks that may write outside of the work directory, or tell of a whole run.
NOT_CALLED = (CheckpointHook, LoggerHook, ProgressBarHook, RunRecordHook)


def dry_run(runner: Runner) -> str:
    """Do some steps of a run that has not begun as it would do them: of each
    kind, with and without distillation, at the first place that the schedule
    has for it. Its work directory is one to throw away. Told is what an epoch
    and the run will take.

    Raise if the training loop is none of MMEngine's, or the GPU has not enough
    memory.
    """
    loop = runner.train_loop
    if not isinstance(loop, (EpochBasedTrainLoop, IterBasedTrainLoop)):
        raise ConfigError('--dry-run needs train_cfg.type EpochBasedTrainLoop '
                          f'or IterBasedTrainLoop; got {type(loop).__name__}')
    runner._hooks = [
        hook for hook in runner.hooks if not isinstance(hook, NOT_CALLED)
    ]
    reports = []
    loop.run = lambda: reports.append(_report(runner))
    try:
        runner.train()
    except torch.cuda.OutOfMemoryError as error:
        raise ConfigError('--dry-run: the GPU has not enough memory: '
                          f'{one_line(error)}') from error
    return reports[0]


def kinds_of_steps(runner: Runner,
                   per_epoch: int) -> Dict[FrozenSet[str], Tuple[int, int]]:
    """The steps of a run by the branches that they distil: by their names the
    first of these iterations, 0-based, and their number. The runner's
    schedules know the run's length."""
    model = get_ori_model(runner.model)
    hooks = [
        hook for hook in runner.hooks if isinstance(hook, DiscontinuousKDHook)
    ]
    if getattr(model, 'distill', None) is None:
        hooks = []
    length = per_epoch if all(hook.by_epoch for hook in hooks) else 1
    kinds: Dict[FrozenSet[str], Tuple[int, int]] = {}
    for begin in range(0, runner.max_iters, length):
        epoch = begin // per_epoch
        names = frozenset(
            name for hook in hooks
            if hook.schedule.is_on(epoch if hook.by_epoch else begin)
            for name in hook.branches or model.kd_weights)
        first, number = kinds.get(names, (begin, 0))
        kinds[names] = first, number + min(length, runner.max_iters - begin)
    return kinds


def _report(runner: Runner) -> str:
    runner.call_hook('before_train')
    trained = getattr(get_ori_model(runner.model), 'kd_weights', {})
    per_epoch = batches_per_pass(runner.train_dataloader)
    kinds = kinds_of_steps(runner, per_epoch)
    rows, total = [], 0.
    for (names, (_, number)), seconds in zip(kinds.items(),
                                             _times(runner, kinds, per_epoch)):
        what = 'distilled' if names else 'not distilled'
        if 0 < len(names) < len(trained):
            which = [name for name in trained if name in names]
            what = f'{", ".join(which)} distilled'
        rows.append((what, f'{100 * number / runner.max_iters:.3g} %',
                     f'{seconds:.3g} s', duration(per_epoch * seconds)))
        total += number * seconds
    place = 'on the GPU' if torch.cuda.is_available() else 'of the process'
    table = render(('steps', 'share of the run', 'one takes',
                    f'epoch of {per_epoch} takes'), rows)
    return (f'Dry run, {STEPS} steps of each kind:\n{table}\n'
            f'The {runner.max_iters} steps of the run take about '
            f'{duration(total)}, besides validation.\n'
            f'Peak memory {place}: {peak_memory() / GIB:.2f} GiB. '
            'Nothing was written.')


def _times(runner: Runner, kinds: Dict[FrozenSet[str], Tuple[int, int]],
           per_epoch: int) -> Iterator[float]:
    """Do steps of each kind; the seconds of the last one."""
    loop = runner.train_loop
    by_epoch = isinstance(loop, EpochBasedTrainLoop)
    batches = (
        chain.from_iterable(repeat(loop.dataloader))
        if by_epoch else loop.dataloader_iterator)
    for first, _ in kinds.values():
        loop._iter = first
        if by_epoch:
            loop._epoch = first // per_epoch
        runner.call_hook('before_train_epoch')
        runner.model.train()
        for step in range(1, STEPS + 1):
            # The next one may be of another kind.
            loop._iter = first
            start = time.perf_counter()
            batch = next(batches)
            if by_epoch:
                loop.run_iter(step, batch)
            else:
                loop.run_iter(batch)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds = time.perf_counter() - start
        yield seconds
