"""The runs of a study, each in a process of its own."""
import fcntl
import json
import math
import os
import os.path as osp
import re
import subprocess
import time
from contextlib import suppress
from typing import Any, Dict, List, Optional, Sequence

from mcod_plugin.errors import ConfigError
from .plan import CHECKPOINT, Run
from .progress import StudyProgress

__all__ = ['execute', 'state']

# Seconds between two looks at the processes, and for one of them to end.
PERIOD = 0.5
GRACE = 10


def state(run: Run) -> str:
    """How far a run has come.

    Args:
        run (Run): The run.

    Returns:
        str: ``'done'``, ``'begun'`` if it will go on from a checkpoint, or
        ``'to do'``.

    Raises:
        ConfigError: If there is a result or a work directory of the same name
            by another config.
    """
    if osp.isfile(run.result):
        with open(run.result) as file:
            try:
                given = json.load(file).get('config_hash')
            except ValueError as error:
                raise ConfigError(f'{run.result} is no result file: '
                                  f'{error}') from error
        _check_hash(run, run.result, given)
        return 'done'
    if osp.isfile(_hash_file(run)):
        with open(_hash_file(run)) as file:
            _check_hash(run, run.work_dir, file.read().strip())
    return 'to do' if _latest(run) is None else 'begun'


def _check_hash(run: Run, place: str, given: Optional[str]) -> None:
    if given != run.config_hash:
        raise ConfigError(
            f'{place} was made by another config than the one that the study '
            f'now has for {run.name} (hash {given}, not {run.config_hash}); '
            'move it away, or let the study write elsewhere')


def _hash_file(run: Run) -> str:
    return osp.join(run.work_dir, 'config_hash')


def _checkpoints(run: Run) -> Dict[int, str]:
    """The checkpoints of a run by the number of epochs."""
    found = {}
    if osp.isdir(run.work_dir):
        for name in os.listdir(run.work_dir):
            match = re.fullmatch(r'epoch_(\d+)\.pth', name)
            if match:
                found[int(match.group(1))] = osp.join(run.work_dir, name)
    return found


def _latest(run: Run) -> Optional[str]:
    """The checkpoint to go on from."""
    # From that of the last epoch there is nowhere to go, but the validation
    # after it may be missing.
    found = {
        epoch: path
        for epoch, path in _checkpoints(run).items()
        if epoch < run.cfg.train_cfg.max_epochs
    }
    return found[max(found)] if found else None


def execute(runs: Sequence[Run],
            chosen: Sequence[Run],
            trainer: Sequence[str],
            jobs: int = 1,
            seconds: float = math.inf) -> List[str]:
    """Train what is not done yet.

    A run that was stopped goes on from its last checkpoint; a finished one is
    not repeated. One that another process is at is left to it.

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
        ConfigError: If a setting keeps a run from beginning.
    """
    waiting = [run for run in chosen if state(run) != 'done']
    if not waiting:
        return []
    by_name = {run.name: run for run in runs}
    running: Dict[int, '_Training'] = {}
    faults: List[str] = []
    progress = StudyProgress(len(waiting))
    end = time.monotonic() + seconds
    try:
        with progress:
            while (waiting or running) and time.monotonic() < end:
                free = [slot for slot in range(jobs) if slot not in running]
                for slot in free:
                    run = _next(waiting, by_name, running)
                    if run is None:
                        break
                    waiting.remove(run)
                    missing = [
                        name for name in run.needs
                        if not _checkpoints(by_name[name])
                    ]
                    if missing:
                        faults.append(
                            f'{run.name} needs the checkpoint of '
                            f'{missing[0]}, which is not in '
                            f'{by_name[missing[0]].work_dir}; move away its '
                            f'result {by_name[missing[0]].result} to have it '
                            'trained again')
                        progress.drop()
                        continue
                    training = _Training(run, by_name, trainer, slot, jobs)
                    if training.begin():
                        running[slot] = training
                        progress.begin(run.name)
                    else:
                        faults.append(f'{run.name} is being trained by '
                                      'another process')
                        progress.drop()
                time.sleep(PERIOD)
                for slot, training in list(running.items()):
                    progress.update(training.run.name, training.fraction())
                    code = training.process.poll()
                    if code is None:
                        continue
                    del running[slot]
                    fault = training.fault(code)
                    if fault is not None:
                        faults.append(fault)
                    progress.end(training.run.name, fault)
    finally:
        for training in running.values():
            training.stop()
    return faults


def _next(waiting: Sequence[Run], by_name: Dict[str, Run],
          running: Dict[int, '_Training']) -> Optional[Run]:
    """The first run that waits for no other."""
    busy = {run.name for run in waiting}
    busy |= {training.run.name for training in running.values()}
    for run in waiting:
        if not busy & set(run.needs):
            return run
    return None


class _Training:
    """The process of a run.

    Args:
        run (Run): The run.
        by_name (dict[str, Run]): All runs.
        trainer (Sequence[str]): The command.
        slot (int): Its place among the processes at work.
        jobs (int): How many places there are.
    """

    def __init__(self, run: Run, by_name: Dict[str, Run],
                 trainer: Sequence[str], slot: int, jobs: int) -> None:
        self.run = run
        self._by_name = by_name
        self._trainer = trainer
        self._slot = slot
        self._jobs = jobs
        self._log = osp.join(run.work_dir, 'train.log')

    def begin(self) -> bool:
        """Start the process, unless another one is at this run."""
        run = self.run
        os.makedirs(run.work_dir, exist_ok=True)
        os.makedirs(osp.dirname(osp.abspath(run.result)), exist_ok=True)
        # The lock is the process's as well, whatever becomes of this one.
        lock = os.open(
            osp.join(run.work_dir, 'lock'), os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            return False
        # Nobody else writes here now, so the state is what it will be.
        config = osp.join(run.work_dir, 'config.py')
        command = [*self._trainer, config, '--work-dir', run.work_dir]
        checkpoint = _latest(run)
        if checkpoint is not None:
            command += ['--resume', checkpoint]
        self._config().dump(config)
        with open(_hash_file(run), 'w') as file:
            file.write(f'{run.config_hash}\n')
        with suppress(FileNotFoundError):
            os.remove(self._progress_file)
        with open(self._log, 'a') as log:
            self._begin = log.tell()
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environ(),
                pass_fds=(lock, ),
                start_new_session=True)
        os.close(lock)
        return True

    def _config(self) -> Any:
        """The config, with the checkpoints of other runs put in."""

        def fill(value: Any) -> Any:
            if isinstance(value, dict):
                return type(value)({k: fill(v) for k, v in value.items()})
            if isinstance(value, (list, tuple)):
                return type(value)(map(fill, value))
            if isinstance(value, str):
                return CHECKPOINT.sub(self._checkpoint, value)
            return value

        cfg = self.run.cfg
        return type(cfg)(fill(cfg.to_dict()))

    def _checkpoint(self, match: re.Match) -> str:
        other = self._by_name[f'{match.group(1)}_seed{self.run.seed}']
        found = _checkpoints(other)
        return osp.abspath(found[max(found)])

    def _environ(self) -> Dict[str, str]:
        """The environment: each of several processes has its share of the
        machine."""
        environ = dict(os.environ)
        if self._jobs == 1:
            return environ
        environ.setdefault('OMP_NUM_THREADS',
                           str(max(1, (os.cpu_count() or 1) // self._jobs)))
        import torch
        number = torch.cuda.device_count()
        if number > 1:
            visible = environ.get('CUDA_VISIBLE_DEVICES')
            devices = visible.split(',') if visible else list(
                map(str, range(number)))
            environ['CUDA_VISIBLE_DEVICES'] = devices[self._slot % number]
        return environ

    @property
    def _progress_file(self) -> str:
        return osp.join(self.run.work_dir, 'progress.json')

    def fraction(self) -> float:
        """The share of the run that is done."""
        try:
            with open(self._progress_file) as file:
                told = json.load(file)
        except (OSError, ValueError):
            return 0.
        return told['iter'] / told['max_iters']

    def fault(self, code: int) -> Optional[str]:
        """What went wrong, None if nothing did.

        Raises:
            ConfigError: If it is a setting.
        """
        if code == 0 and osp.isfile(self.run.result):
            return None
        with open(self._log) as file:
            file.seek(self._begin)
            lines = file.read().split('\n')
        last = [line for line in lines if line.strip()][-1:] or ['']
        if code == 2 and last[0].startswith('error: '):
            raise ConfigError(f'{self.run.name}: {last[0][7:]}')
        return (f'{self.run.name} ended with exit code {code} '
                f'({last[0].strip()[:200]}); see {self._log}')

    def stop(self) -> None:
        """End the process; it will go on from its last checkpoint."""
        self.process.terminate()
        try:
            self.process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
