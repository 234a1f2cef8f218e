"""The runs of a study, each in a process of its own."""
import math
import os.path as osp
import time
from typing import Dict, List, Optional, Sequence

from .plan import Run
from .progress import StudyProgress
from .state import ENDED, check_precision, failure, latest_checkpoint, state
from .training_process import TrainingProcess, is_taken

__all__ = ['execute']

# Seconds between two looks at the processes.
PERIOD = 0.5


def execute(runs: Sequence[Run],
            chosen: Sequence[Run],
            trainer: Sequence[str],
            jobs: int = 1,
            seconds: float = math.inf) -> List[str]:
    """Train what is not done yet.

    A run that was stopped goes on from its last checkpoint; a finished one is
    not repeated, also if it has diverged. Several processes, also of several
    machines that share their files, may train a study together: what another
    one is at is left to it, unless that gives it up while there is still work
    here, and what needs it waits for it.

    Args:
        runs (Sequence[Run]): All runs of the study.
        chosen (Sequence[Run]): Those to train, in the order in which to begin
            them.
        trainer (Sequence[str]): The command that trains a config:
            ``tools/train.py`` and the Python that runs it.
        jobs (int): How many runs to train at a time. On a CPU they share its
            cores, of several GPUs each takes one. Defaults to 1.
        seconds (float): After so many seconds everything is stopped, to go on
            the next time. Defaults to infinity.

    Returns:
        list[str]: One line for each run that failed or could not begin.

    Raises:
        ConfigError: If a setting keeps a run from beginning, or this machine
            does not train in the precision in which the study was begun.
    """
    if not all(osp.isfile(run.result) for run in chosen):
        # Before another machine's config is told to be another one.
        check_precision(runs)
    waiting = [run for run in chosen if state(run) not in ENDED]
    faults = [failure(run) for run in chosen if state(run) == 'failed']
    if not waiting:
        return faults
    by_name = {run.name: run for run in runs}
    for run in waiting:
        for name in run.needs:
            state(by_name[name])  # Whether it is of this study, as it is now.
    running: Dict[int, TrainingProcess] = {}
    elsewhere: List[Run] = []
    progress = StudyProgress(len(waiting))
    end = time.monotonic() + seconds
    try:
        with progress:
            while (waiting or running) and time.monotonic() < end:
                # What others have given up is taken over.
                for run in [run for run in elsewhere if not is_taken(run)]:
                    elsewhere.remove(run)
                    if state(run) in ENDED:
                        progress.drop()
                    else:
                        waiting.append(run)
                free = [slot for slot in range(jobs) if slot not in running]
                for slot in free:
                    run = _next(waiting, by_name, running)
                    if run is None:
                        break
                    waiting.remove(run)
                    fault = _lack(run, by_name)
                    if fault is None:
                        training = TrainingProcess(run, by_name, trainer, slot,
                                                   jobs)
                        if training.begin():
                            running[slot] = training
                            progress.begin(run.name)
                            continue
                        if state(run) not in ENDED:
                            elsewhere.append(run)
                            continue
                    else:
                        faults.append(fault)
                    progress.drop()
                time.sleep(PERIOD)
                for slot, training in list(running.items()):
                    progress.update(training.run.name, training.fraction())
                    code = training.process.poll()
                    if code is None:
                        continue
                    del running[slot]
                    training.close()
                    fault = training.fault(code)
                    if fault is not None:
                        faults.append(fault)
                    progress.end(training.run.name, fault)
            for run in elsewhere:
                progress.skip(run.name)
    finally:
        for training in running.values():
            training.stop()
    return faults


def _next(waiting: Sequence[Run], by_name: Dict[str, Run],
          running: Dict[int, TrainingProcess]) -> Optional[Run]:
    """The first run that waits for no other, here or elsewhere."""
    busy = {run.name for run in waiting}
    busy |= {training.run.name for training in running.values()}
    for run in waiting:
        if not busy & set(run.needs) and not any(
                is_taken(by_name[name])
                for name in run.needs if state(by_name[name]) not in ENDED):
            return run
    return None


def _lack(run: Run, by_name: Dict[str, Run]) -> Optional[str]:
    """What a run cannot begin without, None if it lacks nothing."""
    for name in run.needs:
        other = by_name[name]
        lack = f'{run.name} needs the checkpoint of {name}, which '
        if state(other) == 'failed':
            return f'{lack}has failed'
        if state(other) != 'done':
            return (f'{lack}is not trained to its end; train it first, with '
                    'an --only that matches it as well')
        if latest_checkpoint(other) is None:
            return (f'{lack}is not in {other.work_dir}; move away its result '
                    f'{other.result} to have it trained again')
    return None
