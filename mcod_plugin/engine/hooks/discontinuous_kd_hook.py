import math
from typing import Any, Dict, List, Mapping, Optional, Sequence, Union

from mmengine.hooks import Hook
from mmengine.runner import IterBasedTrainLoop, Runner
from mmpretrain.utils import get_ori_model

from mcod_plugin.datasets.repeated_batches import batches_per_pass
from mcod_plugin.errors import ConfigError, check_branches, check_names
from mcod_plugin.registry import HOOKS
from mcod_plugin.schedule import DiscontinuousSchedule


def whole_schedule(cfg: Mapping[str, Any]) -> Dict[str, Any]:
    """``weight`` and ``ramp`` as :class:`DiscontinuousKDHook` takes them, from
    its arguments, in which both may be missing. A weight that is left out
    grows from nothing in half of the run, since networks that are not trained
    yet hold each other back."""
    weight, ramp = cfg.get('weight'), cfg.get('ramp')
    if weight is None:
        weight, ramp = (0.0, 1.0), 0.5 if ramp is None else ramp
    return dict(weight=weight, ramp=ramp)


@HOOKS.register_module()
class DiscontinuousKDHook(Hook):
    """When and how strongly the cohort distils: writes the current weight
    into the model's ``kd_weights``.

    The weight is a pure function of the epoch (or iteration), so the hook
    has no state and a resumed run recomputes it.

    Args:
        on (int): Length of an on-phase, in epochs (or iterations).
            Defaults to 1.
        gap (Sequence[int]): Length of the gap between on-phases at the
            beginning and at the end. Defaults to (1, 0).
        weight (Sequence[float], optional): Weight in the first and in the
            last step that is on. Defaults to (0.0, 1.0).
        curve (str): The way from the first to the last value: ``'linear'``,
            ``'cosine'``, ``'exp'`` or ``'step'``. Defaults to ``'linear'``.
        begin (int | float): First epoch (or iteration) of the schedule,
            0-based. Here and for ``end`` and ``ramp``, an integer is a number
            of epochs (or iterations), a float between 0 and 1 a share of the
            run. Defaults to 0.
        end (int | float, optional): The epoch (or iteration) before which the
            schedule ends, 0-based; None is the run's end. Defaults to None.
        ramp (int | float, optional): How long gap and weight take, from
            ``begin`` on, to reach their last values, which they keep then;
            None is the whole schedule. Defaults to None, or to 0.5 if
            ``weight`` is left out.
        by_epoch (bool): Whether time counts in epochs; else in iterations.
            Where training counts iterations, an epoch is one pass over the
            data. Defaults to True.
        branches (str | Sequence[str], optional): Names of the branches that
            the schedule is for, all of which are trained. Several hooks may
            be for different branches; those that no hook is for are not
            distilled. Defaults to all branches that are trained.

    Raises:
        ConfigError: If a setting is none of those allowed, or two hooks are
            for the same branch.

    Examples:
        >>> custom_hooks = [
        ...     dict(type='mcod_plugin.DiscontinuousKDHook',
        ...          on=1, gap=(1, 0), weight=(0.0, 1.0), ramp=0.5)
        ... ]
        >>> # always on: gap=(0, 0); never, i.e. solo: weight=(0, 0)
        >>> # at a constant weight: weight=(1, 1)
        >>> custom_hooks = [  # the VGG later than the others
        ...     dict(type='mcod_plugin.DiscontinuousKDHook',
        ...          branches=['resnet', 'densenet']),
        ...     dict(type='mcod_plugin.DiscontinuousKDHook',
        ...          branches=['vgg'], begin=0.5)
        ... ]
    """

    priority = 'NORMAL'

    def __init__(self,
                 on: int = 1,
                 gap: Sequence[int] = (1, 0),
                 weight: Optional[Sequence[float]] = None,
                 curve: str = 'linear',
                 begin: Union[int, float] = 0,
                 end: Optional[Union[int, float]] = None,
                 by_epoch: bool = True,
                 ramp: Optional[Union[int, float]] = None,
                 branches: Optional[Union[str, Sequence[str]]] = None) -> None:
        self.schedule = DiscontinuousSchedule(
            on=on,
            gap=gap,
            curve=curve,
            begin=begin,
            end=end,
            **whole_schedule(dict(weight=weight, ramp=ramp)))
        self.by_epoch = by_epoch
        self.branches = _parse_names(branches)

    def before_train(self, runner: Runner) -> None:
        """Find the model, and fit the schedule to the run's length."""
        self.model = get_ori_model(runner.model)
        if not hasattr(self.model, 'kd_weights'):
            raise ConfigError(
                'DiscontinuousKDHook needs a model with the attribute '
                '"kd_weights", as mcod_plugin.MultiBackboneClassifier has; '
                f'got {type(self.model).__name__}')
        names = self._names()
        self._check_others(runner, names)
        unit = 'epochs' if self.by_epoch else 'iterations'
        total = runner.max_epochs if self.by_epoch else runner.max_iters
        self._per_epoch = None
        if self.by_epoch and isinstance(runner.train_loop, IterBasedTrainLoop):
            # To MMEngine the whole run is one epoch.
            self._per_epoch = batches_per_pass(runner.train_dataloader)
            unit += f' of {self._per_epoch} iterations'
            total = math.ceil(runner.max_iters / self._per_epoch)
        self.schedule = self.schedule.resolve(total)
        if max(self.schedule.weights) > 0 and not any(
                map(self.schedule.is_on, range(total))):
            runner.logger.warning(
                'The distillation schedule has no step that is on: the run is '
                'too short for its gaps and its growing weight. Train longer, '
                'or set custom_hooks.N.weight=1,1 and custom_hooks.N.gap=0,0 '
                'of the hook.')
        runner.logger.info(
            'Distillation schedule over %d %s:\nbranches: %s\n%s', total, unit,
            ', '.join(names), self.schedule)

    def _names(self) -> List[str]:
        """The branches that the schedule is for."""
        trained = list(self.model.kd_weights)
        for name in self.branches or ():
            if name not in trained and name in self.model.branches:
                raise ConfigError(
                    f'DiscontinuousKDHook.branches names {name!r}, which is '
                    'frozen and learns nothing; trained are '
                    f'{", ".join(trained)}')
            check_branches('DiscontinuousKDHook.branches', [name], trained)
        return self.branches or trained

    def _check_others(self, runner: Runner, names: Sequence[str]) -> None:
        """Raise if another hook is for one of the branches: the last one
        would write the weight."""
        for hook in runner.hooks:
            if hook is self or not isinstance(hook, DiscontinuousKDHook):
                continue
            shared = [
                name for name in names
                if hook.branches is None or name in hook.branches
            ]
            if shared:
                raise ConfigError(
                    'custom_hooks has two mcod_plugin.DiscontinuousKDHook for '
                    f'{", ".join(shared)}; give each other branches, by '
                    'branches=[...], or take one out')

    def _write(self, weight: float) -> None:
        if self.branches is None:
            self.model.kd_weight = weight
        else:
            self.model.kd_weights.update(
                dict.fromkeys(self.branches, weight))

    def before_train_epoch(self, runner: Runner) -> None:
        """Write the weight of the epoch."""
        if self.by_epoch and self._per_epoch is None:
            self._write(self.schedule.weight(runner.epoch))

    def before_train_iter(self,
                          runner: Runner,
                          batch_idx: int,
                          data_batch: Optional[dict] = None) -> None:
        """Write the weight of the iteration."""
        if not self.by_epoch:
            self._write(self.schedule.weight(runner.iter))
        elif self._per_epoch is not None:
            self._write(self.schedule.weight(runner.iter // self._per_epoch))


def _parse_names(branches: Any) -> Optional[List[str]]:
    """The names of some branches as a list; None for all."""
    if branches is None:
        return None
    names = [branches] if isinstance(branches, str) else branches
    check_names('DiscontinuousKDHook.branches', names)
    return list(names)
