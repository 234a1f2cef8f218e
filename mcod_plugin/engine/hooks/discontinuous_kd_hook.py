from typing import Optional, Sequence, Union

from mmengine.hooks import Hook
from mmengine.runner import IterBasedTrainLoop, Runner
from mmpretrain.utils import get_ori_model

from mcod_plugin.errors import ConfigError
from mcod_plugin.registry import HOOKS
from mcod_plugin.schedule import DiscontinuousSchedule


@HOOKS.register_module()
class DiscontinuousKDHook(Hook):
    """When and how strongly the cohort distils: writes the current weight
    into the model's ``kd_weight``.

    The weight is a pure function of the epoch (or iteration), so the hook
    has no state and a resumed run recomputes it.

    Args:
        on (int): Length of an on-phase, in epochs (or iterations).
            Defaults to 1.
        gap (Sequence[int]): Length of the gap between on-phases at the
            beginning and at the end. Defaults to (1, 0).
        weight (Sequence[float]): Weight in the first and in the last step
            that is on. Defaults to (1.0, 1.0).
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
            None is the whole schedule. Defaults to None.
        by_epoch (bool): Whether time counts in epochs; else in iterations.
            Where training counts iterations it must be False, unless the
            weight never changes. Defaults to True.

    Raises:
        ConfigError: If a setting is none of those allowed.

    Examples:
        >>> custom_hooks = [
        ...     dict(type='mcod_plugin.DiscontinuousKDHook',
        ...          on=1, gap=(1, 0), weight=(1.0, 1.0), curve='linear')
        ... ]
        >>> # always on: gap=(0, 0); never, i.e. solo: weight=(0, 0)
        >>> # from 0 to 1 in the first half: weight=(0, 1), ramp=0.5
    """

    priority = 'NORMAL'

    def __init__(self,
                 on: int = 1,
                 gap: Sequence[int] = (1, 0),
                 weight: Sequence[float] = (1.0, 1.0),
                 curve: str = 'linear',
                 begin: Union[int, float] = 0,
                 end: Optional[Union[int, float]] = None,
                 by_epoch: bool = True,
                 ramp: Optional[Union[int, float]] = None) -> None:
        self.schedule = DiscontinuousSchedule(
            on=on,
            gap=gap,
            weight=weight,
            curve=curve,
            begin=begin,
            end=end,
            ramp=ramp)
        self.by_epoch = by_epoch

    def before_train(self, runner: Runner) -> None:
        """Find the model, and fit the schedule to the run's length."""
        self.model = get_ori_model(runner.model)
        if not hasattr(self.model, 'kd_weight'):
            raise ConfigError(
                'DiscontinuousKDHook needs a model with the attribute '
                '"kd_weight" such as mcod_plugin.MultiBackboneClassifier; got '
                f'{type(self.model).__name__}')
        if self.by_epoch and isinstance(runner.train_loop, IterBasedTrainLoop):
            # To MMEngine the whole run is one epoch.
            if not self.schedule.is_constant:
                raise ConfigError(
                    'DiscontinuousKDHook counts epochs (by_epoch=True), but '
                    'training counts iterations (IterBasedTrainLoop); set '
                    'by_epoch=False')
            self.by_epoch = False
        total = runner.max_epochs if self.by_epoch else runner.max_iters
        self.schedule = self.schedule.resolve(total)
        runner.logger.info('Distillation schedule over %d %s:\n%s', total,
                           'epochs' if self.by_epoch else 'iterations',
                           self.schedule)

    def before_train_epoch(self, runner: Runner) -> None:
        """Write the weight of the epoch."""
        if self.by_epoch:
            self.model.kd_weight = self.schedule.weight(runner.epoch)

    def before_train_iter(self,
                          runner: Runner,
                          batch_idx: int,
                          data_batch: Optional[dict] = None) -> None:
        """Write the weight of the iteration."""
        if not self.by_epoch:
            self.model.kd_weight = self.schedule.weight(runner.iter)
