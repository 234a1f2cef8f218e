import os
import os.path as osp
from typing import Callable, Dict, Optional, Union

import torch.nn as nn
from mmengine.dist import all_gather_object, is_main_process, master_only
from mmengine.hooks import CheckpointHook
from mmengine.optim import OptimWrapper
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from mmengine.runner.checkpoint import _load_checkpoint_to_model
from mmpretrain.utils import get_ori_model

from mcod_plugin.errors import ConfigError, one_line
from mcod_plugin.utils.checkpoint import (DamagedCheckpoint, branch_of,
                                          last_checkpoint, read_checkpoint,
                                          resumable_checkpoints,
                                          state_dict_mismatches)
from mcod_plugin.utils.files import new_file, sweep
from mcod_plugin.utils.mesh import branch_size, host_group
from mcod_plugin.utils.units import progress
from ..hooks.branch_checkpoint_hook import ENDED, checkpoint_folder
from ..hooks.run_record_hook import RunRecordHook
from ..optim_wrapper import (all_kinds, arrange_parameters, changed_options,
                             match_memory_formats, match_parameters,
                             name_parameters, optimizer_kinds, precision)
from ..parallel.checkpoints import own_part

# Where the message hub keeps after how many epochs or iterations the last
# validation was. MMEngine would log a key that begins with val as a metric.
VALIDATED = 'last_validation'


class ResumingRunner(Runner):
    """MMEngine's runner, whose checkpoints hold data only and whose resumed
    runs end as unbroken ones.

    - Checkpoints are opened as data, never as code, and must fit the model
      exactly.
    - A checkpoint is written beside its place and then renamed, so that a run
      that is killed leaves none half-written.
    - A run that was killed at any moment goes on from the newest checkpoint
      that is intact, and makes up for a validation that was cut off.
    - Each parameter gets its own state of the optimizer, by name, in whatever
      order the branches are written.
    """

    # What a resumed run takes from its checkpoint besides weights.
    _resumes = _resumes_schedulers = False

    def load_or_resume(self) -> None:
        """Load or resume, as the config asks for. One of the checkpoints to
        resume from must be intact, and all processes find the same one."""
        if self._resume and self._load_from is None and not self._has_loaded:
            self._resume_latest()
        else:
            super().load_or_resume()
        if self._load_from is not None and not self._resume:
            # Checkpoints tell it, also once the run was resumed.
            self.message_hub.update_info('load_from', self._load_from)

    def val(self) -> Dict[str, float]:
        """Validate, see :meth:`mmengine.runner.Runner.val`; as a test, it
        takes the weights alone of a checkpoint that is named, also if the
        config is that of a resumed run."""
        self._resume &= self._load_from is None
        return super().val()

    def test(self) -> Dict[str, float]:
        """Test, see :meth:`mmengine.runner.Runner.test` and :meth:`val`."""
        self._resume &= self._load_from is None
        return super().test()

    def _resume_latest(self) -> None:
        """Go on from the newest intact checkpoint of the run, or start anew
        if it has none."""
        folder, template = self.work_dir, 'epoch_{}.pth'
        for hook in self.hooks:
            if isinstance(hook, CheckpointHook):
                folder = checkpoint_folder(hook, self.work_dir)
                template = hook.filename_tmpl
        if is_main_process():
            # Also if there turns out to be nothing left to do.
            sweep(folder)
        damaged, found = [], None
        for path in resumable_checkpoints(folder,
                                          last_checkpoint(self.work_dir),
                                          template):
            try:
                self.resume(path)
            except DamagedCheckpoint as error:
                damaged.append(str(error))
                continue
            found = path
            break
        names = [
            name or 'none'
            for name in all_gather_object(found and osp.basename(found))
        ]
        if len(set(names)) > 1:
            # They would wait for each other for ever.
            raise ConfigError(
                f'the processes do not find the same checkpoint in {folder}: '
                f'{", ".join(names)}; put it where all of them do')
        if found is not None:
            for text in damaged:
                self.logger.warning(f'Skipped: {text}.')
            self.logger.info(
                f'Auto resumed from the latest checkpoint {found}.')
            return
        if damaged:
            raise ConfigError(
                f'nothing to resume from: no checkpoint in {folder} is '
                f'intact: {"; ".join(damaged)}; start without --resume, or '
                'name another checkpoint')
        self._resume = False
        self.logger.warning(f'Nothing to resume from in {folder}: it holds no '
                            'checkpoint. The run starts anew.')

    def run_missed_validation(self) -> None:
        """Do the validation that is due if the run was cut off before its end,
        since the checkpoint is saved before."""
        loop = self.train_loop
        unit, done, total = progress(self)
        if (self.val_loop is None or done == 0
                or not isinstance(loop,
                                  (EpochBasedTrainLoop, IterBasedTrainLoop))
                or self.message_hub.runtime_info.get(VALIDATED) == done):
            return
        # As the loop does.
        loop._decide_current_val_interval()
        if done >= loop.val_begin and (done % loop.val_interval == 0
                                       or done == total):
            self.logger.info(f'The validation after {done} {unit}s was cut '
                             'off. It is done now.')
            # Checkpoints that are saved now tell what they would have told.
            self.message_hub.update_info('iter', self.iter - 1)
            if isinstance(loop, EpochBasedTrainLoop):
                self.message_hub.update_info('epoch', self.epoch - 1)
            self.val_loop.run()

    def load_checkpoint(self,
                        filename: str,
                        map_location: Union[str, Callable] = 'cpu',
                        strict: bool = True,
                        revise_keys: list = [(r'^module.', '')]) -> dict:
        """Load a checkpoint's weights into the model, see
        :meth:`Runner.load_checkpoint`. It is opened as data, and a cohort
        insists that all keys match, ``strict`` or not."""
        checkpoint = read_checkpoint(filename, map_location)
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        model = get_ori_model(self.model)
        try:
            _check_order(model, checkpoint)
            if branch_size() > 1:
                checkpoint = own_part(checkpoint, model.peers.away)
            if self._resumes:
                self._check_state(model, checkpoint)
            checkpoint = _load_checkpoint_to_model(
                model, checkpoint, strict, revise_keys=revise_keys)
            if self._resumes:
                self._arrange_optimizer(filename, checkpoint)
        except (ConfigError, RuntimeError) as error:
            raise ConfigError(f'{filename}: {one_line(error)}') from error
        self._has_loaded = True
        self.logger.info(f'Load checkpoint from {filename}')
        return checkpoint

    def _check_state(self, model: nn.Module, checkpoint: dict) -> None:
        """Raise unless the states of optimizer and schedulers fit, before
        anything is loaded."""
        teacher = getattr(model, 'teacher', None)
        if hasattr(teacher, 'missing_state') and teacher.missing_state(
                checkpoint.get('state_dict', {})):
            raise ConfigError(
                'its run had no averages of the branches, so it cannot go on '
                'with model.teacher.ema; resume it without, or have another '
                'run start from it (load_from)')
        try:
            self._match_optimizer(checkpoint)
        except ConfigError:
            # Of other weights the model itself tells more.
            if not state_dict_mismatches(model.state_dict(),
                                         checkpoint.get('state_dict', {})):
                raise
        if not self._resumes_schedulers:
            return
        own = self.param_schedulers or []
        saved = checkpoint.get('param_schedulers') or []
        if isinstance(own, list) and isinstance(saved, list):
            if len(own) != len(saved):
                raise ConfigError(
                    f'its run has {len(saved)} schedulers, unlike '
                    f'param_scheduler, which has {len(own)}')
            for number, (scheduler, state) in enumerate(zip(own, saved)):
                keys = scheduler.state_dict().keys()
                if keys - state.keys() and state.keys() - keys:
                    raise ConfigError(
                        f'its scheduler {number} is another one than '
                        f'param_scheduler[{number}].type, '
                        f'{type(scheduler).__name__}')

    def _match_optimizer(self, checkpoint: dict) -> Optional[list]:
        if 'optimizer' not in checkpoint or not isinstance(
                self.optim_wrapper, OptimWrapper):
            return None
        info = checkpoint.get('message_hub', {}).get('runtime_info', {})
        return match_parameters(self.optim_wrapper.optimizer,
                                checkpoint['optimizer'], info.get('optimizer'))

    def _arrange_optimizer(self, filename: str, checkpoint: dict) -> None:
        """Have the optimizer take its state by the names of parameters."""
        found = self._match_optimizer(checkpoint)
        if found is None:
            return
        saved = checkpoint['optimizer']
        changes = changed_options(saved, found)
        if changes:
            self.logger.warning(
                f'The run of {filename} goes on with its own settings of the '
                f'optimizer, not those of the config: {"; ".join(changes)}.')
        arrange_parameters(self.optim_wrapper, saved, found)

    def note_validation(self) -> None:
        """Have the checkpoints that are saved from now on tell that the
        validation is done."""
        self.message_hub.update_info(VALIDATED, progress(self)[1])

    def note_training(self) -> None:
        """Have checkpoints tell by what the run is trained."""
        own = precision(self.optim_wrapper)
        if self.iter > 0:
            used = self.message_hub.runtime_info.get('precision', own)
            own = ', '.join(dict.fromkeys([*used.split(', '), own]))
        self.message_hub.update_info('precision', own)
        if isinstance(self.optim_wrapper, OptimWrapper):
            kinds = optimizer_kinds(self.optim_wrapper.optimizer)
            if branch_size() > 1:
                kinds = all_kinds(all_gather_object(kinds, host_group()))
            self.message_hub.update_info('optimizer', kinds)

    def resume(self,
               filename: str,
               resume_optimizer: bool = True,
               resume_param_scheduler: bool = True,
               *args,
               **kwargs) -> None:
        """Go on with the run of a checkpoint, or do what is left of its end,
        see :meth:`mmengine.runner.Runner.resume`. The optimizer's state is
        restored by the names of the parameters. Raise if the checkpoint holds
        weights only or does not fit, or its run has ended."""
        # They are looked at before anything is loaded.
        self.optim_wrapper = self.build_optim_wrapper(self.optim_wrapper)
        if self.param_schedulers is not None:
            self.param_schedulers = self.build_param_scheduler(
                self.param_schedulers)
        self._resumes = resume_optimizer
        self._resumes_schedulers = resume_param_scheduler
        try:
            super().resume(filename, resume_optimizer, resume_param_scheduler,
                           *args, **kwargs)
        finally:
            self._resumes = False
        if isinstance(self.optim_wrapper, OptimWrapper):
            optimizer = self.optim_wrapper.optimizer
            # An older checkpoint has none.
            name_parameters(optimizer, get_ori_model(self.model))
            match_memory_formats(optimizer)
        self._check_resumed(filename)

    def _check_resumed(self, filename: str) -> None:
        """Raise if there is nothing left to do, and warn of what is not as it
        was in the run so far."""
        own = precision(self.optim_wrapper)
        used = self.message_hub.runtime_info.get('precision', own)
        if used != own:
            self.logger.warning(f'The run of {filename} was trained in {used} '
                                f'so far and goes on in {own}.')
        info = self.message_hub.runtime_info
        unit, done, total = progress(self)
        setting = 'max_epochs' if unit == 'epoch' else 'max_iters'
        ended = info.pop(ENDED, False) and not any(
            isinstance(hook, RunRecordHook) and hook.is_missing()
            for hook in self.hooks)
        if done > total or done == total and ended:
            raise ConfigError(
                f'nothing to resume: {filename} is at {unit} {done} of '
                f'{total}; raise train_cfg.{setting} to go on')
        if done == total:
            self.logger.info(f'{filename} is at {unit} {done} of {total}: the '
                             'end of its run, which was cut off, is done now.')
            # The table at the end is of its last validation.
            info.pop(VALIDATED, None)
        length = info.get(setting)
        if length is not None and length != total:
            self.logger.warning(
                f'The run of {filename} was to last {length} {unit}s, this '
                f'one lasts {total}. The learning rate goes on as it was '
                'scheduled then, the distillation as it is now.')

    @master_only
    def save_checkpoint(self, out_dir: str, filename: str, *args,
                        **kwargs) -> None:
        """Save a checkpoint beside its place, then put it there."""
        if '://' in out_dir:
            super().save_checkpoint(out_dir, filename, *args, **kwargs)
            return
        os.makedirs(out_dir, exist_ok=True)
        with new_file(osp.join(out_dir, filename)) as part:
            super().save_checkpoint(out_dir, osp.basename(part), *args,
                                    **kwargs)


def _check_order(model: nn.Module, checkpoint: dict) -> None:
    """Raise if weights of the teacher or of the distillation loss are for the
    branches in another order, which is that of the keys."""
    saved = dict.fromkeys(
        filter(None, map(branch_of, checkpoint.get('state_dict', ()))))
    for key in ('teacher', 'distill'):
        part = getattr(model, key, None)
        if getattr(part, 'ordered', False) and saved.keys() == set(
                model.branches) and list(saved) != list(model.branches):
            raise ConfigError(
                f'model.{key}.type {type(part).__name__} takes the branches '
                'in their order, so model.branches must be in that of the '
                f'checkpoint, {", ".join(saved)}; got '
                f'{", ".join(model.branches)}')
