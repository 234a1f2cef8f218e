import json
import os
import os.path as osp
import re
import subprocess
from contextlib import suppress
from typing import Dict, Optional, Sequence

from mmengine.config import Config

from mcod_plugin.errors import ConfigError
from mcod_plugin.utils.files import try_lock, write_text
from mcod_plugin.utils.machine import usable_cores
from .plan import CHECKPOINT, Run
from .state import ENDED, failure, hash_file, latest_checkpoint, state

# Seconds for a process to end by itself.
GRACE = 10


class TrainingProcess:
    """The process that trains a run by a command, in one of so many places,
    its slot, for processes that are at work at a time."""

    def __init__(self, run: Run, by_name: Dict[str, Run],
                 trainer: Sequence[str], slot: int, jobs: int) -> None:
        self.run = run
        self._by_name = by_name
        self._trainer = trainer
        self._slot = slot
        self._jobs = jobs
        self._log = osp.join(run.work_dir, 'train.log')
        self._lock = None

    def begin(self) -> bool:
        """Start the process, unless another one is at this run or has finished
        it, and tell whether it was started. Its folders must be ones that can
        be written."""
        run = self.run
        try:
            os.makedirs(run.work_dir, exist_ok=True)
            os.makedirs(osp.dirname(osp.abspath(run.result)), exist_ok=True)
            lock = open(_lock_file(run), 'a')
        except OSError as error:
            raise ConfigError(
                f'{run.name}: {error.filename} cannot be written '
                f'({error.strerror}); choose another --work-dir, or other '
                'results of the study') from error
        # If nobody else writes here now, the state is what it will be.
        if not try_lock(lock.fileno()) or state(run) in ENDED:
            lock.close()
            return False
        # On a network's file system the lock is not the child's as well.
        self._lock = lock
        self._start(lock.fileno())
        return True

    def close(self) -> None:
        """Leave the run to others, when its process has ended."""
        self._lock.close()

    def _start(self, lock: int) -> None:
        run = self.run
        config = osp.join(run.work_dir, 'config.py')
        command = [*self._trainer, config, '--work-dir', run.work_dir]
        if latest_checkpoint(run) is not None:
            command.append('--resume')
        write_text(config, self._config())
        write_text(hash_file(run), f'{run.config_hash}\n')
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
                # On a disk of this machine the lock is the process's as well,
                # whatever becomes of this one.
                pass_fds=(lock, ),
                start_new_session=True)

    def _config(self) -> str:
        """The config, with the checkpoints of other runs put in."""
        text = Config(self.run.cfg.to_dict()).pretty_text
        return CHECKPOINT.sub(self._checkpoint, text)

    def _checkpoint(self, match: re.Match) -> str:
        other = self._by_name[f'{match.group(1)}_seed{self.run.seed}']
        # It stands within quotes.
        return re.sub(r'([\\\'"])', r'\\\1',
                      osp.abspath(latest_checkpoint(other)))

    def _environ(self) -> Dict[str, str]:
        """The environment: each of several processes has its share of the
        machine."""
        # What to do next is told of the study, not of each run.
        environ = dict(os.environ, MCOD_STUDY='1')
        if self._jobs == 1:
            return environ
        environ.setdefault('OMP_NUM_THREADS',
                           str(max(1,
                                   usable_cores() // self._jobs)))
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
        """What went wrong by the exit code, None if nothing did. If it is a
        setting, it is raised."""
        if code == 0 and osp.isfile(self.run.result):
            return failure(self.run)
        with open(self._log, encoding='utf-8', errors='replace') as file:
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
        self.close()


def is_taken(run: Run) -> bool:
    """Whether another process, on this machine or another one, is at a run
    that this process is not at."""
    try:
        with open(_lock_file(run), 'a') as lock:
            return not try_lock(lock.fileno())
    except OSError:
        return False  # Nobody has begun it.


def _lock_file(run: Run) -> str:
    return osp.join(run.work_dir, 'lock')
