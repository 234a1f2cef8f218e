from dataclasses import dataclass
from typing import Any, Dict, Iterable, List, Optional, Sequence

import numpy as np
import torch
from mmengine.dist import all_gather_object
from mmengine.hooks import CheckpointHook, LoggerHook, RuntimeInfoHook
from mmengine.logging import HistoryBuffer
from mmengine.runner import Runner
from mmpretrain.utils import get_ori_model

from mcod_plugin.errors import ConfigError
from mcod_plugin.registry import HOOKS
from mcod_plugin.utils.mesh import branch_size, host_group
from mcod_plugin.utils.plain import to_host
from ..optim_wrapper import BranchOptimizer
from ..optim_wrapper.gradient_norms import GradientNorms
from .divergence_watch import DivergenceWatch, diverged_branches

# The sum of all losses.
TOTAL = 'train/loss'
# The most steps whose values wait on the device.
MAX_STEPS = 1000
# Steps from one look at the pull of the distillation to the next, besides
# those that are logged.
RATIO_STEPS = 10


@dataclass
class _Step:
    """A step whose values wait: its iteration, 0-based, the learning rates of
    the optimizer's groups, and the values by their keys in the hub."""
    iteration: int
    rates: Dict[str, Sequence[float]]
    values: Dict[str, Any]


@HOOKS.register_module()
class CohortRuntimeInfoHook(RuntimeInfoHook):
    """Hand the losses of training to the message hub when they are read, not
    in every step.

    MMEngine moves every value of every step to the host at once, and each
    time a GPU has to finish what it was given before it gets more; then it
    copies the history of all values before, which grows with the run. Here
    the values wait on the device until a :class:`LoggerHook` logs, a
    checkpoint is saved, a validation begins or an epoch ends; the message hub
    then holds what it would have held. A hook that reads ``train/...`` from
    it at another time sees the values of the last of these moments.

    At these moments the losses are looked at, and where a checkpoint may come
    next the weights as well: :class:`DivergenceWatch` acts if they are not
    finite.

    A gap leaves out ``loss_kd`` and ``kd_ratio`` of the branches, and MMEngine
    would go on to log the last ones from before. Here they are 0 in gaps, as
    nothing is added to the loss. Likewise, ``<branch>.kd_weight`` of a cohort
    whose branches have had different weights is logged in every step.

    Of a branch with an optimizer of its own, ``<branch>.lr`` is logged
    besides.

    The ``kd_ratio`` of a cohort, how hard the distillation pulls, is asked for
    in steps that are logged and once in ten others.

    A step that logs now waits for what the device has left of all the steps
    before it, so ``time`` is the mean of the steps since the last log instead
    of the last ten, unless the log processor's ``custom_cfg`` has a ``time``.

    Examples:
        >>> default_hooks = dict(runtime_info=dict(
        ...     type='mcod_plugin.CohortRuntimeInfoHook'))
    """

    def __init__(self) -> None:
        self.pending: List[_Step] = []
        self._rates: Dict[str, Sequence[float]] = {}
        # How many iterations are over.
        self._done = 0
        self._watch: Optional[DivergenceWatch] = None
        # Those that the run of the checkpoint has left out.
        self._left_out: Dict[str, dict] = {}
        # What a gap leaves out, each with its value there.
        self.gap: Dict[str, float] = {}
        # Weights that a branch has had of its own.
        self._own_weights: Dict[str, None] = {}
        self._model: Optional[torch.nn.Module] = None

    def before_train(self, runner: Runner) -> None:
        """Look which branches were distilled before the run was resumed, and
        have ``time`` averaged from one log to the next."""
        super().before_train(runner)
        self._done = runner.iter
        if runner.iter == 0:
            # Its weights are a start; what its run did is another one's.
            self._left_out = {}
        self._leave_out(runner)
        GradientNorms.defer(runner.optim_wrapper)
        self._watch = DivergenceWatch(runner)
        self._note_kd_keys(runner.message_hub.log_scalars)
        self._model = get_ori_model(runner.model)
        settings = runner.log_processor.custom_cfg
        intervals = log_intervals(runner)
        if intervals and all(
                setting.get('log_name', setting['data_src']) != 'time'
                for setting in settings):
            # A list of its own: theirs may be that of the config.
            time = dict(
                data_src='time',
                method_name='mean',
                window_size=max(intervals))
            runner.log_processor.custom_cfg = [*settings, time]

    def before_train_iter(self,
                          runner: Runner,
                          batch_idx: int,
                          data_batch: Any = None) -> None:
        """Note the iteration, keep the learning rates, and ask for the
        ratios."""
        runner.message_hub.update_info('iter', runner.iter)
        self._done = runner.iter
        self._rates = runner.optim_wrapper.get_lr()
        values = {
            f'train/{key}': value[0]
            for key, value in self._rates.items()
        }
        optimizer = getattr(runner.optim_wrapper, 'optimizer', None)
        if isinstance(optimizer, BranchOptimizer):
            for name, own in optimizer.optimizers.items():
                if name:
                    values[f'train/{name}.lr'] = own.param_groups[0]['lr']
        self.pending.append(_Step(runner.iter, self._rates, values))
        if hasattr(self._model, 'ratio_due') and (
                batch_idx % RATIO_STEPS == 0
                or self._is_read(runner, batch_idx)):
            self._model.ratio_due = True

    def after_train_iter(self,
                         runner: Runner,
                         batch_idx: int,
                         data_batch: Any = None,
                         outputs: Optional[dict] = None) -> None:
        """Keep the values of the step; hand them over if they are logged."""
        self._done = runner.iter + 1
        norms = GradientNorms.of(runner.optim_wrapper)
        # In MMEngine's order.
        outputs = {**(norms.take() if norms else {}), **(outputs or {})}
        values = {f'train/{key}': value for key, value in outputs.items()}
        self._note_kd_keys(values)
        # A branch without a distillation loss is in a gap; one that has it may
        # lack the ratio, which is not measured in every step.
        gap = {
            key: value
            for key, value in self.gap.items()
            if f'{key.rpartition(".")[0]}.loss_kd' not in values
        }
        # It is left out of steps in which the branches have the same.
        shared = dict.fromkeys(self._own_weights,
                               values.get('train/kd_weight', 0.))
        if not self.pending:
            # A hook of a user's has saved a checkpoint since the step began.
            self.pending.append(_Step(runner.iter, self._rates, {}))
        for key, value in {**gap, **shared, **values}.items():
            if isinstance(value, torch.Tensor):
                value = value.detach().reshape(())
            self.pending[-1].values[key] = value
        saves = is_saved(runner)
        if saves or self._is_read(runner, batch_idx):
            self._check(runner, saves)

    def before_val(self, runner: Runner) -> None:
        """Leave out the branches that the checkpoint's run has left out."""
        super().before_val(runner)
        self._leave_out(runner)

    def before_test(self, runner: Runner) -> None:
        """Leave out the branches that the checkpoint's run has left out."""
        super().before_test(runner)
        self._leave_out(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        """Hand over what is left of the epoch, before it is saved."""
        self._check(runner, True)

    def before_val_epoch(self, runner: Runner) -> None:
        """Hand over what is left, before the best is saved."""
        if self._watch is not None:
            self._check(runner, True)

    def after_train(self, runner: Runner) -> None:
        """Look no longer: what is validated now is not trained."""
        super().after_train(runner)
        self._watch = None

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Hand over what the checkpoint's copy of the message hub lacks."""
        if self.pending:
            # By a hook of a user's, and on rank 0 alone.
            self.flush(runner)
            state = runner.message_hub.state_dict()
            for key in ('log_scalars', 'resumed_keys'):
                checkpoint['message_hub'][key] = state[key]
            self._watch.check_weights(self._done)
            self._watch.raise_if_faulty()

    def settle(self, runner: Runner) -> None:
        """Hand over what waits, and see whether training has diverged, before
        a hook of a user's saves a checkpoint.

        Args:
            runner (Runner): The runner.
        """
        if self.pending:
            self._check(runner, True)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Note the branches that the checkpoint's run has left out."""
        self._left_out = diverged_branches(checkpoint)

    def _leave_out(self, runner: Runner) -> None:
        names = self._left_out
        model = get_ori_model(runner.model)
        if names and branch_size() > 1:
            raise ConfigError(
                f'parallel.branch={branch_size()} does not go with a '
                f'checkpoint whose run has left out {", ".join(names)}, which '
                'diverged; leave parallel out')
        if names and hasattr(model, 'leave_out'):
            model.leave_out(names)

    def _check(self, runner: Runner, saves: bool) -> None:
        """Hand over, and see whether training has diverged; ``saves`` says
        whether a checkpoint may be written next."""
        self.flush(runner)
        if self._watch is not None:
            if saves:
                self._watch.check_weights(self._done)
            self._watch.handle_faults(self._done)

    def _is_read(self, runner: Runner, batch_idx: int) -> bool:
        """Whether the values are read after this step."""
        return self.end_of_epoch(runner.train_dataloader, batch_idx) or any(
            self.every_n_inner_iters(batch_idx, interval)
            for interval in (MAX_STEPS, *log_intervals(runner)))

    def _note_kd_keys(self, keys: Iterable[str]) -> None:
        self._own_weights.update(
            dict.fromkeys(key for key in keys if key.endswith('.kd_weight')))
        self.gap.update({
            key: 0.
            for key in keys if key.endswith(('.loss_kd', '.kd_ratio'))
        })

    def flush(self, runner: Runner) -> None:
        """Move all values that wait to the message hub.

        Args:
            runner (Runner): The runner.
        """
        numbers = iter(
            to_host([
                value for step in self.pending
                for value in step.values.values()
            ]))
        for step in self.pending:
            step.values = dict(zip(step.values, numbers))
        if self._watch is not None:
            self._watch.check_losses(
                (key, number, step.iteration + 1, step.rates)
                for step in self.pending
                for key, number in step.values.items() if 'loss' in key)
        steps = [step.values for step in self.pending]
        if branch_size() > 1:
            steps = self._with_those_of_peers(steps)
        self.pending.clear()
        histories: Dict[str, list] = {}
        for step in steps:
            for key, number in step.items():
                histories.setdefault(key, []).append(number)
        for key, (first, *others) in histories.items():
            runner.message_hub.update_scalar(key, first)
            extend(runner.message_hub.get_scalar(key), others)

    def _with_those_of_peers(
            self, steps: List[Dict[str, float]]) -> List[Dict[str, float]]:
        """The values of steps together with those of branches that live in
        other processes, all of which call this."""
        like = next(self._model.parameters())
        return [
            merged_values(parts, list(self._model.branches), like.dtype)
            for parts in zip(*all_gather_object(steps, host_group()))
        ]


def merged_values(parts: Sequence[Dict[str, float]], names: Sequence[str],
                  dtype: torch.dtype) -> Dict[str, float]:
    """The values of a step in one process, from the ``parts`` of several that
    share the branches. Those that all of them have are equal, but for
    ``train/loss``, which is the sum of all, made in the order of the branches
    and in the dtype given."""
    shared = set.intersection(*map(set, parts))
    own = {
        key: value
        for name in names for part in parts for key, value in part.items()
        if key not in shared and key.startswith(f'train/{name}.')
    }
    merged: Dict[str, float] = {}
    for key, value in parts[0].items():
        if key in shared:
            merged[key] = value
        if key == TOTAL:
            merged.update(own)
    if TOTAL in merged:
        losses = torch.tensor(
            [value for key, value in merged.items()
             if 'loss' in key and key != TOTAL], dtype=dtype)
        # One by one, as MMEngine adds them up.
        merged[TOTAL] = sum(losses).item()
    return merged


def log_intervals(runner: Runner) -> List[int]:
    """Iterations from one log to the next, of each logger of a runner."""
    return [
        hook.interval for hook in runner.hooks if isinstance(hook, LoggerHook)
    ]


def is_saved(runner: Runner) -> bool:
    """Whether a checkpoint is due after this iteration, where they are saved
    by iterations."""
    return any(
        isinstance(hook, CheckpointHook) and not hook.by_epoch and (
            hook.every_n_train_iters(runner, hook.interval, hook.save_begin) or
            (hook.save_last and hook.is_last_train_iter(runner)))
        for hook in runner.hooks)


def extend(history: HistoryBuffer, numbers: Sequence[float]) -> None:
    """Append numbers to a history, each of which counts once.

    Its own method copies all that is there for each of them, which costs more
    and more as a run goes on.
    """
    if numbers:
        logs, counts = history.data
        keep = slice(-history.max_length, None)
        history._log_history = np.append(logs, numbers)[keep]
        history._count_history = np.append(counts, [1] * len(numbers))[keep]
