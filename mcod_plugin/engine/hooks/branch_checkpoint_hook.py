from typing import Any, Dict, Tuple

from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner
from mmpretrain.utils import get_ori_model

from mcod_plugin.registry import HOOKS
from mcod_plugin.utils.machine import describe_machine
from mcod_plugin.utils.plain import from_plain, to_plain
from mcod_plugin.version import __version__


@HOOKS.register_module()
class BranchCheckpointHook(CheckpointHook):
    """Keep the best checkpoint of every branch and of the ensemble, and write
    checkpoints that hold data, never code.

    What MMEngine puts into a checkpoint besides tensors is turned into plain
    containers, and back when one is loaded, so that ``torch.load`` with
    ``weights_only=True`` opens all of them.

    Args:
        *args, **kwargs: See :class:`mmengine.hooks.CheckpointHook`. Without
            ``save_best``, the top-1 accuracy of the ensemble and of each
            branch decides, each for a file of its own, as far as the
            validation gives it.

    Examples:
        >>> default_hooks = dict(checkpoint=dict(
        ...     type='mcod_plugin.BranchCheckpointHook', max_keep_ckpts=2))
    """

    # The metrics that were not asked for, which a validation may lack.
    _chosen: Tuple[str, ...] = ()
    _told = False

    def before_train(self, runner: Runner) -> None:
        """Name the metrics by which the best checkpoints are told, and look
        what the run is made by."""
        branches = getattr(get_ori_model(runner.model), 'branches', None)
        if self.save_best is None and branches is not None:
            self.save_best = ['ensemble/top1'
                              ] + [f'{name}/top1' for name in branches]
            self.is_better_than = {}
            self.best_ckpt_path_dict = {}
            self._init_rule(['greater'], self.save_best)
            self._chosen = tuple(self.save_best)
        self._machine = describe_machine()
        super().before_train(runner)

    def after_val_epoch(self, runner: Runner, metrics: Dict[str,
                                                            float]) -> None:
        """Save the best checkpoints by those metrics that there are."""
        missing = [key for key in self._chosen if key not in metrics]
        if missing and not self._told:
            self._told = True
            runner.logger.warning(
                f'No best checkpoint by {", ".join(missing)}: the validation '
                "does not give it. val_evaluator=dict(type='mcod_plugin."
                "BranchMetrics') with 1 in topk does; else set save_best of "
                'the checkpoint hook.')
        # MMEngine passes over what is None.
        super().after_val_epoch(runner, {**dict.fromkeys(missing), **metrics})

    def before_save_checkpoint(self, runner: Runner,
                               checkpoint: dict) -> None:
        """Turn objects into plain containers, and note by which code and on
        what machine they were trained."""
        checkpoint['meta'].update(
            mcod_plugin_version=__version__, machine=self._machine)
        hub = checkpoint['message_hub'] = dict(checkpoint['message_hub'])
        hub['runtime_info'] = self._plain_info(runner, hub['runtime_info'])
        hub['resumed_keys'] = {
            key: resumed
            for key, resumed in hub['resumed_keys'].items()
            if key in hub['runtime_info'] or key in hub['log_scalars']
        }
        if 'param_schedulers' in checkpoint:
            checkpoint['param_schedulers'] = _without_functions(
                checkpoint['param_schedulers'])
        for key in checkpoint:
            if key != 'state_dict':
                checkpoint[key] = to_plain(checkpoint[key])

    def _plain_info(self, runner: Runner, info: dict) -> dict:
        """The entries of the message hub that are data.

        Any hook may put any object there; one that is not data must not end
        a training run.
        """
        plain = {}
        for key, value in info.items():
            try:
                plain[key] = to_plain(value)
            except TypeError as error:
                runner.logger.warning(
                    f'"{key}" of the message hub is not saved in the '
                    f'checkpoint, because it is more than data: {error}')
        return plain

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Turn plain containers back into MMEngine's objects."""
        if 'message_hub' in checkpoint:
            checkpoint['message_hub'] = from_plain(checkpoint['message_hub'])


def _without_functions(states: Any) -> Any:
    """States of schedulers without what their constructors make anew, such as
    the ``anneal_func`` of ``OneCycleLR``."""
    if isinstance(states, dict):
        return {
            key: _without_functions(value)
            for key, value in states.items() if not callable(value)
        }
    if isinstance(states, list):
        return [_without_functions(value) for value in states]
    return states
