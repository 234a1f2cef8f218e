import hashlib
import os.path as osp
import pickle
from typing import Any, Dict, List, Optional, Tuple

import torch
from mmengine.dist import is_main_process, master_only
from mmengine.fileio import join_path
from mmengine.hooks import CheckpointHook
from mmengine.logging import MessageHub
from mmengine.runner import Runner
from mmpretrain.utils import get_ori_model

from mcod_plugin.errors import ConfigError, check_count
from mcod_plugin.evaluation import BranchMetrics
from mcod_plugin.registry import HOOKS
from mcod_plugin.utils.checkpoint import read_checkpoint
from mcod_plugin.utils.files import (check_folder, new_file, sweep,
                                     write_text)
from mcod_plugin.utils.machine import describe_machine
from mcod_plugin.utils.plain import from_plain, to_plain
from mcod_plugin.version import __version__

# Where the message hub keeps the names of the files that are to be removed,
# and in the last checkpoint that its run has ended.
OBSOLETE = 'obsolete_ckpts'
ENDED = 'ended'


@HOOKS.register_module()
class BranchCheckpointHook(CheckpointHook):
    """Keep the best checkpoint of every branch and of the ensemble, write
    checkpoints that hold data, never code, and lose none.

    A file is removed only when what takes its place is written, and when the
    last checkpoint tells so: a run that is killed at any moment goes on, and
    then removes what it still has to. Nothing is removed but in the run's own
    folder, also if it goes on from the checkpoint of another one.

    What MMEngine puts into a checkpoint besides tensors is turned into plain
    containers, and back when one is loaded, so that ``torch.load`` with
    ``weights_only=True`` opens all of them.

    The arguments are those of :class:`mmengine.hooks.CheckpointHook`. Without
    ``save_best``, the top-1 accuracy (of several labels the mean average
    precision) of the ensemble and of each branch decides, each for a file of
    its own, as far as the validation gives it.

    Examples:
        >>> default_hooks = dict(checkpoint=dict(
        ...     type='mcod_plugin.BranchCheckpointHook', max_keep_ckpts=2))
    """

    # The metrics that were not asked for, which a validation may lack.
    _chosen: Tuple[str, ...] = ()
    _told = False
    # The message hub's, in training.
    _info: Dict[str, Any] = {}
    # What the checkpoint that was loaded tells of itself.
    _loaded: Optional[dict] = None

    def before_train(self, runner: Runner) -> None:
        """Name the metrics by which the best checkpoints are told, and look
        what the run is made by.

        Raises:
            ConfigError: If the interval is no number, or there can be no
                folder for the checkpoints.
        """
        check_count('default_hooks.checkpoint.interval', self.interval, -1)
        check_folder('default_hooks.checkpoint.out_dir',
                     checkpoint_folder(self, runner.work_dir))
        model = get_ori_model(runner.model)
        branches = getattr(model, 'branches', None)
        several = getattr(model, 'multi_label', False)
        self._giver = ("metric=dict(type='AveragePrecision')"
                       if several else '1 in topk')
        if self.save_best is None and branches is not None:
            key = 'mAP' if several else 'top1'
            self.save_best = [
                f'{name}/{key}' for name in ('ensemble', *branches)
            ]
            self.is_better_than = {}
            self.best_ckpt_path_dict = {}
            self._init_rule(['greater'], self.save_best)
            self._chosen = tuple(self.save_best)
        elif self.save_best and branches is not None:
            evaluator = getattr(runner.val_loop, 'evaluator', None)
            found = [
                metric.names(branches, model.num_classes)
                if type(metric) is BranchMetrics else None
                for metric in getattr(evaluator, 'metrics', [None])
            ]
            # A hook may give others.
            fault = None not in found and self._unknown(sum(found, []))
            if fault:
                runner.logger.warning(fault)
        self._machine = describe_machine()
        self._info = runner.message_hub.runtime_info
        self._saved: Optional[Tuple[int, dict]] = None
        if runner._resume and self._loaded is not None:
            self._take_over(runner, self._loaded)
        super().before_train(runner)
        self.file_backend = _DeferringBackend(self.file_backend,
                                              runner.message_hub)
        if is_main_process():
            for folder in {runner.work_dir, self.out_dir}:
                sweep(folder)
        self._remove_obsolete()

    def _take_over(self, runner: Runner, meta: dict) -> None:
        """Adapt what the checkpoint tells of the files beside it, whose folder
        may have been moved or copied, or is another than that of the run."""
        info = self._info
        folder = checkpoint_folder(self, runner.work_dir)
        best = [key for key in info if key.startswith('best_ckpt')]
        # None is one that the runner has found in the folder of the run.
        named = runner._load_from
        if named is None or osp.realpath(
                osp.dirname(named)) == osp.realpath(folder):
            for key in (*best, 'last_ckpt'):
                if info.get(key) is not None:
                    info[key] = join_path(folder, osp.basename(info[key]))
            self.last_ckpt = info.get('last_ckpt')
            step = meta['epoch'] if self.by_epoch else meta['iter']
            self._saved = step, dict(epoch=meta['epoch'], iter=meta['iter'])
            return
        names = [osp.basename(info.pop(key)) for key in best]
        for key in ('keep_ckpt_ids', OBSOLETE):
            info.pop(key, None)
        if names:
            runner.logger.warning(
                f'The best checkpoints so far, {", ".join(names)}, stay in '
                f'{osp.dirname(named)}; {folder} gets those that are better.')

    def after_val_epoch(self, runner: Runner, metrics: Dict[str,
                                                            float]) -> None:
        """Save the best checkpoints by those metrics that there are."""
        missing = [key for key in self._chosen if key not in metrics]
        if missing and not self._told:
            self._told = True
            runner.logger.warning(
                f'No best checkpoint by {", ".join(missing)}: the validation '
                "does not give it. val_evaluator=dict(type='mcod_plugin."
                f"BranchMetrics') with {self._giver} does; else set save_best "
                'of the checkpoint hook.')
        fault = self._unknown(list(metrics))
        if fault:
            raise ConfigError(fault)
        # MMEngine passes over what is None.
        super().after_val_epoch(runner, {**dict.fromkeys(missing), **metrics})
        self._remove_obsolete()

    def _unknown(self, given: List[str]) -> str:
        """What there is to say of a metric that ``save_best`` asks for and
        the validation does not give; empty if it gives all."""
        for name in self.key_indicators if self.save_best and given else ():
            if name not in (*given, *self._chosen, 'auto'):
                return (f'default_hooks.checkpoint.save_best names {name!r}, '
                        'which the validation does not give; it gives '
                        f'{", ".join(given)}')
        return ''

    def mark_as_ended(self, runner: Runner) -> None:
        """Have the last checkpoint tell that its run has ended, so that it is
        not resumed again.

        Args:
            runner (Runner): The runner, all of whose hooks are done.
        """
        if self._saved is not None and self._saved[1]['iter'] == runner.iter:
            runner.message_hub.update_info(ENDED, True)
            self._save_checkpoint_with_step(runner, *self._saved)
            runner.message_hub.pop_info(ENDED)

    def _save_checkpoint_with_step(self, runner: Runner, step: int,
                                   meta: dict) -> None:
        """Write the checkpoint, record it, then delete what it replaces."""
        # The runner adds to it.
        self._saved = step, dict(meta)
        name = self.filename_tmpl.format(step)
        if self.max_keep_ckpts > 0 and step not in self.keep_ckpt_ids:
            if len(self.keep_ckpt_ids) == self.max_keep_ckpts:
                oldest = self.filename_tmpl.format(self.keep_ckpt_ids[0])
                self.file_backend.remove(oldest)
            self.keep_ckpt_ids.append(step)
            runner.message_hub.update_info('keep_ckpt_ids',
                                           list(self.keep_ckpt_ids))
        path = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', path)
        runner.save_checkpoint(
            self.out_dir,
            name,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args)
        # Not before it is there: a run that is stopped names it.
        self.last_ckpt = path
        if is_main_process():
            write_text(osp.join(runner.work_dir, 'last_checkpoint'), path)
        self._remove_obsolete()

    def _remove_obsolete(self) -> None:
        """Remove the files that others have taken the place of."""
        names = self._info.pop(OBSOLETE, [])
        if not names or not is_main_process():
            return
        backend = self.file_backend.backend
        used = {
            osp.basename(path)
            for key, path in self._info.items()
            if key.startswith('best_ckpt') and path or key == 'last_ckpt'
        }
        for name in set(names) - used:
            path = backend.join_path(self.out_dir, name)
            if backend.isfile(path):
                backend.remove(path)

    @master_only
    def _publish_model(self, runner: Runner, ckpt_path: Optional[str]) -> None:
        """Write the ``published_keys`` of a checkpoint into a file that is
        named after its hash."""
        if ckpt_path is None:
            return
        content = {
            key: value
            for key, value in read_checkpoint(str(ckpt_path)).items()
            if key in self.published_keys
        }
        code = hashlib.sha256(pickle.dumps(content)).hexdigest()[:8]
        path = f'{osp.splitext(ckpt_path)[0]}-{code}.pth'
        with new_file(path) as part:
            torch.save(content, part)
        runner.logger.info(f'{ckpt_path} is published as {path}.')

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
        self._loaded = checkpoint.get('meta')
        if 'message_hub' in checkpoint:
            checkpoint['message_hub'] = from_plain(checkpoint['message_hub'])


def checkpoint_folder(hook: CheckpointHook, work_dir: str) -> str:
    """Where a hook saves the checkpoints of a run that has not begun: its work
    directory, or the folder of its name in the hook's ``out_dir``."""
    if hook.out_dir in (None, work_dir):
        return work_dir
    return join_path(hook.out_dir, osp.basename(work_dir.rstrip(osp.sep)))


class _DeferringBackend:
    """A file backend that notes what it should remove, for MMEngine removes a
    file before it writes the next one.

    Args:
        backend (BaseStorageBackend): The backend.
        hub (MessageHub): Gets the names of the files.
    """

    def __init__(self, backend: Any, hub: MessageHub) -> None:
        self.backend = backend
        self._hub = hub

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)

    def remove(self, path: str) -> None:
        """Note the name of a file."""
        names = self._hub.get_info(OBSOLETE, [])
        self._hub.update_info(OBSOLETE, [*names, osp.basename(path)])


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
