from typing import Any, Optional

from mmengine.dist import all_reduce_params
from mmengine.hooks import EMAHook, Hook
from mmengine.runner import Runner

from mcod_plugin.registry import HOOKS
from mcod_plugin.utils.mesh import data_group, data_size
from .cohort_runtime_info_hook import is_saved


@HOOKS.register_module()
class BufferSyncHook(Hook):
    """Make the buffers of all processes equal before a validation and before
    a checkpoint.

    Each process of a distributed run has seen other images, so that the
    running statistics of its batch norm are its own. Without this hook each
    validates its share of the images by its own, and the first saves its own:
    the accuracy in the log is that of no model. Here they are averaged, those
    of averaged weights (``EMAHook``) too. :class:`CohortRunner` registers it.

    Examples:
        >>> default_hooks = dict(buffer_sync=None)  # without
    """

    # Before averaged weights are swapped in, and before anything is saved.
    priority = 'ABOVE_NORMAL'

    _trains = False

    def before_train(self, runner: Runner) -> None:
        """Begin."""
        self._trains = data_size() > 1

    def after_train(self, runner: Runner) -> None:
        """End: what is validated now is not trained."""
        self._trains = False

    def before_val_epoch(self, runner: Runner) -> None:
        """Average before the validation."""
        self._average(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        """Average before the checkpoint of the epoch."""
        self._average(runner)

    def after_train_iter(self,
                         runner: Runner,
                         batch_idx: int,
                         data_batch: Any = None,
                         outputs: Optional[dict] = None) -> None:
        """Average before the checkpoint of the iteration."""
        if self._trains and is_saved(runner):
            self._average(runner)

    def _average(self, runner: Runner) -> None:
        if not self._trains:
            return
        buffers = list(runner.model.buffers())
        for hook in runner.hooks:
            if isinstance(hook, EMAHook):
                buffers += hook.ema_model.buffers()
        # Counters are equal, and a mean of whole numbers would be another.
        all_reduce_params(
            [value for value in buffers if value.is_floating_point()],
            op='mean',
            group=data_group())
