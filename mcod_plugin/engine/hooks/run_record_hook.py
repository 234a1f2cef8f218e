import json
import os
import os.path as osp
import time
from contextlib import suppress
from typing import Any, Dict, List, Optional

import torch
from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.utils import get_ori_model
from torch.utils.data import DataLoader

from mcod_plugin.errors import ConfigError
from mcod_plugin.registry import HOOKS
from mcod_plugin.runs.config_changes import (config_changes, json_config,
                                             keep_settings)
from mcod_plugin.runs.courses import Courses
from mcod_plugin.runs.record import RECORD
from mcod_plugin.runs.tables import render
from mcod_plugin.utils.files import check_out, write_text
from mcod_plugin.utils.machine import describe_machine, peak_memory
from mcod_plugin.utils.mesh import data_size
from mcod_plugin.utils.units import progress
from ..optim_wrapper import precision
from .cohort_runtime_info_hook import CohortRuntimeInfoHook, log_intervals
from .divergence_watch import DIVERGED

# Where a checkpoint keeps the record so far.
STATE = 'run_record'
# The least number of seconds between two notes of the progress, except for
# the end of an epoch.
PERIOD = 5.
# How a run that has not ended otherwise stands.
RUNNING, FINISHED = 'running', 'finished'


@HOOKS.register_module()
class RunRecordHook(Hook):
    """Write down what happens in a run, while it happens.

    :class:`CohortRunner` registers it for every run. The record is the file
    ``record.json`` of the work directory, written at the end of each epoch
    and of each validation and when the run ends, in whatever way. A run that
    is killed leaves what it had written by then. It is JSON, whose numbers
    may be ``NaN``, as of a branch that diverged:

    ===================== ==================================================
    key                   value
    ===================== ==================================================
    all of ``info``       as it was given
    ``method``            the ``method`` of the config, which ``--method``
                          names
    ``outcome``           ``'running'``, ``'finished'``, ``'stopped'``, or
                          ``'failed: '`` and the error; of several
                          processes that of the one which ended first
    ``unit``              what the run counts in, ``'epoch'`` or
                          ``'iteration'``
    ``branches``          their names
    ``epochs``            that were finished
    ``iterations``        that were finished
    ``batch_size``        images of a step, on all ranks together
    ``seed``              of the run
    ``train_seconds``     in epochs of training: without validation, writing
                          of checkpoints, and what an interruption has undone
    ``seconds``           all, without the start of the process and what an
                          interruption has undone
    ``peak_memory_bytes`` on a GPU what PyTorch has allocated at most,
                          otherwise resident memory; of rank 0
    ``device`` etc.       see :func:`describe_machine`, at the start
    ``threads``           of PyTorch on a CPU; None on a GPU
    ``precision``         that was used, ``'float32'``, ``'bfloat16'`` or
                          ``'float16'``; of a run that went on in another
                          one both, as ``'bfloat16, float32'``
    ``curves``            ``epoch`` (or ``iteration``), the numbers of those
                          that were finished at each validation, and the
                          metrics by name
    ``until``             how many epochs (or iterations) were over at the
                          end of each entry of the lists that follow. They
                          are of an epoch each, or of the iterations from one
                          validation to the next
    ``kd_weight``         the mean weight of the distillation that took
                          effect, the greatest of all branches
    ``<branch>.kd_weight`` the same of that branch, if the branches have had
                          different weights
    ``kd_on``             the share of the steps in which a branch was
                          distilled
    ``kd_ratio``          by branch that is distilled how hard that pulls at
                          its logits against its own loss: the mean over the
                          steps in which ``<branch>.kd_ratio`` was measured,
                          on rank 0; 0 in gaps
    ``train_loss``        by branch that is trained the mean of
                          ``<branch>.loss_ce``, on rank 0
    ``last``              the metrics of the last validation
    ``diverged``          by branch that was left out because it diverged the
                          ``epoch`` and ``iteration`` (from 1) and its
                          learning rate ``lr``; its losses and metrics are
                          NaN from then on
    ``changes``           of each resume with another config after how many
                          epochs (or iterations) that was, and its
                          ``settings``, see :func:`config_changes`
    ``config``            at the start
    ===================== ==================================================

    Entries from before the run was recorded are NaN. While the run lasts, its
    work directory also has ``progress.json`` with ``iter``, ``max_iters`` and
    ``seconds``, which is written every few seconds.

    What is known so far goes into each checkpoint, so that a run which was
    stopped and resumed leaves the record of an unbroken one, times and memory
    apart. If it is resumed with another config, a table tells which settings
    take effect; those that do not get their old values back, so that the
    config in the work directory is true.

    Args:
        out (str, optional): A file, whose name ends with ``.json``, for the
            record of the run that has finished, without ``config`` and
            ``outcome``. An old one is removed when training begins. Defaults
            to None.
        info (dict, optional): Plain data for the record, such as the name of
            the method. What the hook writes itself replaces entries of the
            same name. Defaults to None.

    Raises:
        ConfigError: If ``out`` cannot be written, or ``info`` is not plain
            data.

    Examples:
        >>> custom_hooks = [
        ...     dict(type='mcod_plugin.RunRecordHook',
        ...          out='results/dml_seed0.json', info=dict(method='dml'))
        ... ]
    """

    # After the losses were handed over, before a checkpoint is saved.
    priority = 'HIGH'

    def __init__(self,
                 out: Optional[str] = None,
                 info: Optional[Dict[str, Any]] = None) -> None:
        if out is not None and not str(out).endswith('.json'):
            raise ConfigError('out of RunRecordHook must be the path of a '
                              f'.json file; got {out!r}')
        self.out = out
        try:
            # A copy, without the classes of a config.
            self.info = json.loads(json.dumps(info or {}))
        except (TypeError, ValueError) as error:
            raise ConfigError('info of RunRecordHook must be plain data: '
                              f'{error}') from error
        if not isinstance(self.info, dict):
            raise ConfigError('info of RunRecordHook must be a dict; got '
                              f'{info!r}')
        self._loaded: Optional[dict] = None
        # None unless a run is going on.
        self._courses: Optional[Courses] = None

    def before_run(self, runner: Runner) -> None:
        """Look at the config before a checkpoint changes it."""
        self._config = json_config(runner.cfg)
        # A run that finds nothing to resume starts as any other.
        self._config.pop('resume', None)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Take the record so far, in case the run is resumed."""
        self._loaded = checkpoint.get(STATE)

    def before_train(self, runner: Runner) -> None:
        """Tell what has changed since the checkpoint, and start the clock."""
        self.model = get_ori_model(runner.model)
        self.unit, done, _ = progress(runner)
        if self.out is not None:
            check_out('out of RunRecordHook', self.out)
        self._machine = describe_machine()
        self._outcome = RUNNING
        self._begun = False
        self._start = self._told = self._part_start = time.perf_counter()
        self._courses = Courses(self.unit)
        self._config_now = self._first_config = self._config
        self._changes: List[dict] = []
        # Of the parts of the run before this one.
        self._train_before = self._seconds_before = 0.
        self._peak = 0
        if runner.iter > 0:
            self._go_on(runner, done)

    def _go_on(self, runner: Runner, done: int) -> None:
        loaded = self._loaded
        if loaded is None:
            self._courses.add_unknown(done)
            return
        unit = loaded.get('unit', 'epoch')
        if unit != self.unit:
            raise ConfigError(
                f'train_cfg: the run of the checkpoint counts in {unit}s, so '
                f'it cannot go on in {self.unit}s')
        self._courses.load(loaded)
        # That of an older version lacks some entries.
        self._train_before = loaded.get('train_seconds', 0.)
        self._seconds_before = loaded.get('seconds', 0.)
        self._peak = loaded.get('peak_memory_bytes', 0)
        self._changes = loaded.get('changes', [])
        self._first_config = loaded.get('config', self._config)
        before = loaded.get('config_now')
        changes = before and config_changes(before, self._config)
        if not changes:
            return
        keep_settings(runner.cfg, before)
        self._config_now = json_config(runner.cfg)
        self._config_now.pop('resume', None)
        # A run may be resumed several times from one checkpoint.
        self._changes = [
            *self._changes, {
                self.unit: done,
                'settings': changes
            }
        ]
        runner.logger.warning(
            'The config is another one than that of the checkpoint:\n%s',
            changes_table(changes))

    def is_missing(self) -> bool:
        """Whether a run that has ended lacks the record at ``out``."""
        return self.out is not None and not osp.isfile(self.out)

    def before_val_epoch(self, runner: Runner) -> None:
        """Begin, if a resumed run makes up for a validation; of a run that
        counts in iterations, note what was done since the last one."""
        if self._courses is None:
            return
        self._begin(runner)
        if self.unit == 'iteration':
            self._note_part(runner, runner.iter)

    def before_train_epoch(self, runner: Runner) -> None:
        """Begin, and start the clock of the epoch."""
        self._begin(runner)
        if self.unit == 'epoch':
            # One that was cut off is done again.
            self._courses.begin_part()
        self._part_start = time.perf_counter()

    def after_train_iter(self,
                         runner: Runner,
                         batch_idx: int,
                         data_batch: Any = None,
                         outputs: Optional[dict] = None) -> None:
        """Keep ratios and weights, and tell the progress once in a while."""
        self._courses.add_step(outputs or {})
        self._note_peak(runner, batch_idx, runner.train_dataloader)
        if time.perf_counter() - self._told >= PERIOD:
            self._tell(runner, runner.iter + 1)

    def after_val_iter(self,
                       runner: Runner,
                       batch_idx: int,
                       data_batch: Any = None,
                       outputs: Any = None) -> None:
        """Look at the memory that validation takes."""
        if self._courses is not None:
            self._note_peak(runner, batch_idx, runner.val_dataloader)

    def after_train_epoch(self, runner: Runner) -> None:
        """Note what the epoch was like."""
        if self.unit == 'epoch':
            self._note_part(runner, runner.epoch + 1)
        self._tell(runner, runner.iter)
        self._write(runner, runner.epoch + 1)

    def after_val_epoch(self,
                        runner: Runner,
                        metrics: Optional[Dict[str, float]] = None) -> None:
        """Note the metrics of the epoch that was finished."""
        if self._courses is None:
            return
        self._courses.add_metrics(progress(runner)[1], metrics or {})
        self._part_start = time.perf_counter()
        self._write(runner, runner.epoch)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Put the record so far into the checkpoint."""
        if self._courses is not None:
            checkpoint[STATE] = dict(
                self._courses.state(),
                unit=self.unit,
                changes=self._changes,
                config=self._first_config,
                config_now=self._config_now,
                train_seconds=self._train_seconds(),
                **self._costs())

    def after_train(self, runner: Runner) -> None:
        """Write the record of a run that has finished."""
        self._begin(runner)
        if self.unit == 'iteration':
            self._note_part(runner, runner.iter)
        self._outcome = FINISHED
        self._write(runner, runner.epoch)
        if self.out is not None and is_main_process():
            record = self._record(runner, runner.epoch)
            for key in ('config', 'outcome'):
                del record[key]
            write_record(self.out, record)
            runner.logger.info('Record of the run: %s', self.out)

    def note_end(self, runner: Runner, outcome: str) -> None:
        """Write the record of a run that ends before it has finished.

        Args:
            runner (Runner): The runner.
            outcome (str): How it ends, see :class:`ProcessEnd`.
        """
        if self._courses is not None and self._begun:
            self._outcome = outcome
            # MMEngine counts an epoch after all hooks have had its end.
            self._write(runner, max([runner.epoch, *self._courses.until]))
            if self.unit == 'iteration' and get_world_size() == 1:
                # The device may have failed, and tell nothing.
                with suppress(Exception):
                    self._note_open_part(runner)

    def _note_open_part(self, runner: Runner) -> None:
        """Write what was done since the last validation."""
        for hook in runner.hooks:
            if isinstance(hook, CohortRuntimeInfoHook):
                hook.flush(runner)
        before = (self._courses.until or [0])[-1]
        self._note_part(runner, before + self._courses.steps)
        self._write(runner, runner.epoch)

    def after_run(self, runner: Runner) -> None:
        """Forget the run, of which no checkpoint is saved any more."""
        self._courses = None

    def _begin(self, runner: Runner) -> None:
        """Replace what is left of an earlier run."""
        if self._begun:
            return
        self._begun = True
        if is_main_process() and self.out is not None:
            with suppress(FileNotFoundError):
                os.remove(self.out)
        self._write(runner, runner.epoch)

    def _note_part(self, runner: Runner, done: int) -> None:
        """Note what an epoch was like, or what was done since the last
        validation."""
        steps = self._courses.steps
        if steps == 0:
            return
        if torch.cuda.is_available():
            # What it has still to do belongs to the epoch.
            torch.cuda.synchronize()
        self._train_before = self._train_seconds()
        scalars = runner.message_hub.log_scalars
        losses = {
            name: float(scalars[f'train/{name}.loss_ce'].mean(steps))
            for name in getattr(self.model, 'branches', ())
            if f'train/{name}.loss_ce' in scalars
        }
        self._courses.end_part(done, losses)
        self._part_start = time.perf_counter()

    def _train_seconds(self) -> float:
        passed = 0.
        if self._courses.steps:
            passed = time.perf_counter() - self._part_start
        return self._train_before + passed

    def _note_peak(self, runner: Runner, batch_idx: int,
                   loader: DataLoader) -> None:
        """Note the peak of memory before it is forgotten: MMEngine has each
        line of the log begin a new one."""
        if batch_idx + 1 == len(loader) or any(
                self.every_n_inner_iters(batch_idx, interval)
                for interval in log_intervals(runner)):
            self._peak = max(self._peak, peak_memory())

    def _costs(self) -> Dict[str, float]:
        """Time and memory up to now, those of interrupted parts included."""
        passed = time.perf_counter() - self._start
        return dict(
            seconds=self._seconds_before + passed,
            peak_memory_bytes=max(self._peak, peak_memory()))

    def _tell(self, runner: Runner, iterations: int) -> None:
        self._told = time.perf_counter()
        if is_main_process():
            state = dict(
                iter=iterations,
                max_iters=runner.max_iters,
                seconds=self._costs()['seconds'])
            write_text(
                osp.join(runner.work_dir, 'progress.json'),
                f'{json.dumps(state)}\n')

    def _write(self, runner: Runner, epochs: int) -> None:
        if is_main_process():
            write_record(
                osp.join(runner.work_dir, RECORD),
                self._record(runner, epochs))

    def _record(self, runner: Runner, epochs: int) -> Dict[str, Any]:
        method = runner.cfg.get('method')
        size = runner.train_dataloader.batch_size
        return dict(
            {
                **(dict(method=method) if isinstance(method, str) else {}),
                **self.info
            },
            outcome=self._outcome,
            unit=self.unit,
            branches=list(getattr(self.model, 'branches', ())),
            epochs=epochs if self.unit == 'epoch' else None,
            iterations=runner.iter,
            batch_size=size and size * data_size(),
            seed=runner.seed,
            train_seconds=self._train_seconds(),
            **self._costs(),
            **self._machine,
            threads=(None if torch.cuda.is_available() else
                     torch.get_num_threads()),
            # Of a runner that is not ours what it is now.
            precision=runner.message_hub.runtime_info.get(
                'precision', precision(runner.optim_wrapper)),
            **self.so_far(),
            diverged=runner.message_hub.runtime_info.get(DIVERGED, {}),
            changes=self._changes,
            config=self._first_config)

    def so_far(self) -> Dict[str, Any]:
        """What was measured and took effect so far.

        Returns:
            dict[str, Any]: ``curves``, ``until``, ``kd_weight`` and the other
            lists of the record, and ``last``.
        """
        return self._courses.to_dict()


def write_record(path: str, record: Dict[str, Any]) -> None:
    """Write a record, a line for each of its keys."""
    lines = ',\n'.join(f'{json.dumps(key)}: {json.dumps(value)}'
                       for key, value in record.items())
    write_text(path, f'{{\n{lines}\n}}\n')


def changes_table(changes: List[Dict[str, Any]]) -> str:
    """A table of the settings in which a resumed run differs from its
    checkpoint, see :func:`config_changes`."""
    rows = [[
        change['setting'],
        *(json.dumps(change[when]) if when in change else '-'
          for when in ('before', 'now')),
        'yes' if change['takes_effect'] else 'no'
    ] for change in changes]
    return render(('setting', 'in the checkpoint', 'now', 'takes effect'),
                  rows)
