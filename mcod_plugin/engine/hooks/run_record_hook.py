import json
import math
import os
import os.path as osp
import time
from contextlib import suppress
from numbers import Real
from typing import Any, Dict, List, Optional

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook, LoggerHook
from mmengine.runner import EpochBasedTrainLoop, Runner
from mmpretrain.utils import get_ori_model
from torch.utils.data import DataLoader

from mcod_plugin.errors import ConfigError
from mcod_plugin.registry import HOOKS
from mcod_plugin.utils.files import check_out, write_text
from mcod_plugin.utils.machine import describe_machine, peak_memory
from ..optim_wrapper import precision
from .cohort_report_hook import top1
from .cohort_runtime_info_hook import to_host
from .divergence_watch import DIVERGED

# Where a checkpoint keeps the record so far.
STATE = 'run_record'
# The least number of seconds between two notes of the progress, except for
# the end of an epoch.
PERIOD = 5.


@HOOKS.register_module()
class RunRecordHook(Hook):
    """Write down what a comparison of runs needs, when training has ended.

    The record is a JSON file, whose numbers may be ``NaN``, as of a run that
    diverged:

    ===================== ==================================================
    key                   value
    ===================== ==================================================
    all of ``info``       as it was given
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
    ``curves``            ``epoch``, the numbers of epochs that were finished
                          at each validation, and the metrics by name
    ``kd_weight``         of each epoch the weight of the distillation that
                          took effect, the greatest of all branches; of its
                          last iteration, if the schedule goes by iterations
    ``<branch>.kd_weight`` the same of that branch, if the branches have had
                          different weights
    ``kd_ratio``          by branch that is distilled how hard that pulls at
                          its logits against its own loss, of each epoch: the
                          mean over the steps in which ``<branch>.kd_ratio``
                          was measured, on rank 0; 0 in gaps
    ``train_loss``        by branch that is trained the mean of
                          ``<branch>.loss_ce`` over the steps of each epoch,
                          on rank 0
    ``last``              the metrics of the last validation
    ``best``              for each branch and the ensemble its best top-1
                          accuracy and the epoch of that
    ``diverged``          by branch that was left out because it diverged the
                          ``epoch`` and ``iteration`` (from 1) and its
                          learning rate ``lr``; its losses and metrics are
                          NaN from then on
    ===================== ==================================================

    While the run lasts, its work directory has ``curves.json``, the
    ``curves`` so far, and ``progress.json`` with ``iter``, ``max_iters`` and
    ``seconds``, which is written every few seconds.

    What is known so far goes into each checkpoint, so that a run which was
    stopped and resumed leaves the record of an unbroken one, times and memory
    apart.

    Args:
        out (str, optional): The file, whose name ends with ``.json``. An old
            one is removed when training begins. Defaults to ``record.json``
            in the work directory.
        info (dict, optional): Plain data for the record, such as the name of
            the method. What the hook writes itself replaces entries of the
            same name. Defaults to None.

    Raises:
        ConfigError: If ``out`` cannot be written, ``info`` is not plain data,
            the model is no cohort, training does not go by epochs, or the run
            was begun without this hook.

    Examples:
        >>> custom_hooks = [
        ...     dict(type='mcod_plugin.RunRecordHook',
        ...          out='results/dml_seed0.json', info=dict(method='dml'))
        ... ]
    """

    # After an epoch and a validation before a checkpoint is saved.
    priority = 'HIGHEST'

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
        self._state: Optional[dict] = None

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Take the record so far, in case the run is resumed."""
        self._loaded = checkpoint.get(STATE)

    def before_train(self, runner: Runner) -> None:
        """Check that a record can be made, and start the clock."""
        self.model = get_ori_model(runner.model)
        if not hasattr(self.model, 'branches'):
            raise ConfigError('RunRecordHook needs a cohort such as '
                              'mcod_plugin.MultiBackboneClassifier; got '
                              f'{type(self.model).__name__}')
        if not isinstance(runner.train_loop, EpochBasedTrainLoop):
            raise ConfigError('RunRecordHook counts in epochs, so '
                              'train_cfg.by_epoch must be True; got False')
        self.path = self._path(runner)
        check_out('out of RunRecordHook', self.path)
        if runner.iter > 0 and self._loaded is None:
            raise ConfigError(
                'RunRecordHook: the run was begun without it, so that the '
                f'record would lack the first {runner.epoch} epochs; start '
                'without --resume, or go on without the hook')
        self._state = self._loaded if runner.iter > 0 else dict(
            rows=[],
            kd_weight=[],
            kd_weights={},
            kd_ratio={},
            train_loss={},
            train_seconds=0.,
            seconds=0.,
            peak_memory_bytes=0)
        self._machine = describe_machine()
        self._begun = False
        self._start = self._told = time.perf_counter()

    def is_missing(self, runner: Runner) -> bool:
        """Whether a run that has ended lacks its record."""
        return not osp.isfile(self._path(runner))

    def _path(self, runner: Runner) -> str:
        return self.out or osp.join(runner.work_dir, 'record.json')

    def before_val_epoch(self, runner: Runner) -> None:
        """Begin, if a resumed run makes up for a validation."""
        if self._state is not None:
            self._begin(runner)

    def before_train_epoch(self, runner: Runner) -> None:
        """Begin, and start the clock of the epoch."""
        self._begin(runner)
        self._ratios: Dict[str, List[Any]] = {}
        self._weights: Dict[str, Any] = {}
        self._epoch_start = time.perf_counter()

    def after_train_iter(self,
                         runner: Runner,
                         batch_idx: int,
                         data_batch: Any = None,
                         outputs: Optional[dict] = None) -> None:
        """Keep ratios and weights, and tell the progress once in a while."""
        self._weights.clear()
        for key, value in (outputs or {}).items():
            name, _, what = key.rpartition('.')
            if what == 'kd_ratio':
                self._ratios.setdefault(name, []).append(value)
            elif what == 'kd_weight':
                self._weights[name] = value
        self._note_peak(runner, batch_idx, runner.train_dataloader)
        if time.perf_counter() - self._told >= PERIOD:
            self._tell(runner, runner.iter + 1)

    def after_val_iter(self,
                       runner: Runner,
                       batch_idx: int,
                       data_batch: Any = None,
                       outputs: Any = None) -> None:
        """Look at the memory that validation takes."""
        if self._state is not None:
            self._note_peak(runner, batch_idx, runner.val_dataloader)

    def after_train_epoch(self, runner: Runner) -> None:
        """Note what the epoch was like."""
        if torch.cuda.is_available():
            # What it has still to do belongs to the epoch.
            torch.cuda.synchronize()
        state = self._state
        state['train_seconds'] += time.perf_counter() - self._epoch_start
        self._note_weights(state)
        # A branch may be distilled for the first time in a late epoch. The
        # state of a run that was begun by an older version has no ratios.
        epochs = len(state['kd_weight'])
        ratios = state.setdefault('kd_ratio', {})
        for name in {**ratios, **self._ratios}:
            values = to_host(self._ratios.get(name, [0.]))
            course = ratios.setdefault(name, [])
            course += [0.] * (epochs - 1 - len(course))
            course.append(math.fsum(values) / len(values))
        hub = runner.message_hub
        for name in self.model.branches:
            key = f'train/{name}.loss_ce'
            if key in hub.log_scalars:
                mean = hub.get_scalar(key).mean(len(runner.train_dataloader))
                state['train_loss'].setdefault(name, []).append(float(mean))
        self._tell(runner, runner.iter)

    def _note_weights(self, state: Dict[str, Any]) -> None:
        """Note the weights that took effect in the last step. The state of a
        run that was begun by an older version has none by branch."""
        weight = float(self._weights.pop('', 0.))
        before = list(state['kd_weight'])
        state['kd_weight'].append(weight)
        courses = state.setdefault('kd_weights', {})
        for name in {**courses, **self._weights}:
            courses.setdefault(name, list(before)).append(
                float(self._weights.get(name, weight)))

    def after_val_epoch(self,
                        runner: Runner,
                        metrics: Optional[Dict[str, float]] = None) -> None:
        """Note the metrics of the epoch that was finished."""
        if self._state is not None:
            # A validation may be repeated when a run is resumed.
            self._state['rows'] = [
                row for row in self._state['rows']
                if row['epoch'] < runner.epoch
            ] + [dict(epoch=runner.epoch, **numbers(metrics or {}))]
            self._write_curves(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Put the record so far into the checkpoint."""
        if self._state is not None:
            checkpoint[STATE] = dict(self._state, **self._costs())

    def after_train(self, runner: Runner) -> None:
        """Write the record."""
        self._begin(runner)
        if is_main_process():
            lines = ',\n'.join(f'{json.dumps(key)}: {json.dumps(value)}'
                               for key, value in self._record(runner).items())
            write_text(self.path, f'{{\n{lines}\n}}\n')
            runner.logger.info('Record of the run: %s', self.path)

    def after_run(self, runner: Runner) -> None:
        """Forget the run, of which no checkpoint is saved any more."""
        self._state = None

    def _begin(self, runner: Runner) -> None:
        """Remove what is left of an earlier run."""
        if self._begun:
            return
        self._begun = True
        if is_main_process():
            with suppress(FileNotFoundError):
                os.remove(self.path)
        self._write_curves(runner)

    def _note_peak(self, runner: Runner, batch_idx: int,
                   loader: DataLoader) -> None:
        """Note the peak of memory before it is forgotten: MMEngine has each
        line of the log begin a new one."""
        intervals = [
            hook.interval for hook in runner.hooks
            if isinstance(hook, LoggerHook)
        ]
        if batch_idx + 1 == len(loader) or any(
                self.every_n_inner_iters(batch_idx, interval)
                for interval in intervals):
            self._state['peak_memory_bytes'] = max(
                self._state['peak_memory_bytes'], peak_memory())

    def _costs(self) -> Dict[str, float]:
        """Time and memory up to now, those of interrupted parts included."""
        passed = time.perf_counter() - self._start
        return dict(
            seconds=self._state['seconds'] + passed,
            peak_memory_bytes=max(self._state['peak_memory_bytes'],
                                  peak_memory()))

    def _tell(self, runner: Runner, iterations: int) -> None:
        self._told = time.perf_counter()
        if is_main_process():
            progress = dict(
                iter=iterations,
                max_iters=runner.max_iters,
                seconds=self._costs()['seconds'])
            write_text(
                osp.join(runner.work_dir, 'progress.json'),
                f'{json.dumps(progress)}\n')

    def _write_curves(self, runner: Runner) -> None:
        if is_main_process():
            text = json.dumps(columns(self._state['rows']))
            write_text(osp.join(runner.work_dir, 'curves.json'), f'{text}\n')

    def _record(self, runner: Runner) -> Dict[str, Any]:
        state = self._state
        rows = state['rows']
        loader = runner.train_dataloader
        return dict(
            self.info,
            branches=list(self.model.branches),
            epochs=runner.epoch,
            iterations=runner.iter,
            batch_size=loader.batch_size * runner.world_size,
            seed=runner.seed,
            train_seconds=state['train_seconds'],
            **self._costs(),
            **self._machine,
            threads=(None if torch.cuda.is_available() else
                     torch.get_num_threads()),
            # Of a runner that is not ours what it is now.
            precision=runner.message_hub.runtime_info.get(
                'precision', precision(runner.optim_wrapper)),
            curves=columns(rows),
            kd_weight=state['kd_weight'],
            **{
                f'{name}.kd_weight': course
                for name, course in state.get('kd_weights', {}).items()
            },
            kd_ratio=state.get('kd_ratio', {}),
            train_loss=state['train_loss'],
            last={
                key: value
                for key, value in (rows[-1] if rows else {}).items()
                if key != 'epoch'
            },
            best=best(rows),
            diverged=runner.message_hub.runtime_info.get(DIVERGED, {}))


def numbers(metrics: Dict[str, Any]) -> Dict[str, float]:
    """Those metrics that are numbers.

    Args:
        metrics (dict[str, Any]): Metrics by name.

    Returns:
        dict[str, float]: The numbers, as Python's own.
    """
    return {
        key: float(value)
        for key, value in metrics.items() if isinstance(value, Real)
    }


def columns(rows: List[Dict[str, float]]) -> Dict[str, list]:
    """Turn the metrics of each validation into a curve of each metric.

    Args:
        rows (list[dict[str, float]]): By validation ``epoch`` and metrics.

    Returns:
        dict[str, list]: By name as many numbers as there are rows; NaN where
        a row lacks it.
    """
    names = dict.fromkeys(['epoch', *(name for row in rows for name in row)])
    return {name: [row.get(name, math.nan) for row in rows] for name in names}


def best(rows: List[Dict[str, float]]) -> Dict[str, list]:
    """The best top-1 accuracy, and when it was first reached.

    Args:
        rows (list[dict[str, float]]): By validation ``epoch`` and metrics.

    Returns:
        dict[str, list]: For each branch, and last for the ensemble, the
        accuracy in percent and the epoch. What was always NaN is left out.
    """
    found: Dict[str, list] = {}
    for row in rows:
        for name, accuracy in top1(row).items():
            if accuracy > found.get(name, [-math.inf])[0]:
                found[name] = [accuracy, row['epoch']]
    return found
