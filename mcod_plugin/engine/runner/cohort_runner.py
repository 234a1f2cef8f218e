import os
import os.path as osp
import shutil
from inspect import signature
from typing import Any, Callable, Dict, Optional, Tuple, Union

import torch
import torch.nn as nn
from mmengine.device import get_device
from mmengine.dist import (all_gather_object, is_distributed, is_main_process,
                           master_only)
from mmengine.evaluator import Evaluator
from mmengine.hooks import CheckpointHook, RuntimeInfoHook
from mmengine.model import is_model_wrapper
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import OPTIMIZERS
from mmengine.runner import (BaseLoop, EpochBasedTrainLoop, IterBasedTrainLoop,
                             Runner)
from mmengine.runner.checkpoint import _load_checkpoint_to_model
from mmpretrain.utils import get_ori_model
from torch.utils.data import DataLoader

from mcod_plugin.config.explain import unknown_type
from mcod_plugin.config.input_size import data_input_size
from mcod_plugin.config.missing_data import explain_missing_data
from mcod_plugin.config.parts import is_part
from mcod_plugin.datasets.in_memory_dataset import is_in_memory
from mcod_plugin.errors import ConfigError, check_choice
from mcod_plugin.evaluation import CohortEvaluator
from mcod_plugin.models.utils.memory_format import match_state
from mcod_plugin.models.utils.state_faults import state_faults
from mcod_plugin.registry import RUNNERS
from mcod_plugin.utils.allocator import keep_freed_memory
from mcod_plugin.utils.checkpoint import (DamagedCheckpoint, last_checkpoint,
                                          read_checkpoint,
                                          resumable_checkpoints)
from mcod_plugin.utils.files import new_file, sweep, write_text
from mcod_plugin.utils.launchers import adopt_ranks
from mcod_plugin.utils.leftovers import missing_folders, remove_empty
from mcod_plugin.utils.workers import default_workers
from ..hooks.branch_checkpoint_hook import (ENDED, BranchCheckpointHook,
                                            checkpoint_folder)
from ..hooks.run_record_hook import RunRecordHook
from ..optim_wrapper import (arrange_parameters, changed_options, has_bfloat16,
                             match_parameters, name_parameters, precision,
                             prefer_fused, with_branch_constructor)
from .compile_settings import compile_settings, uses_cuda_graphs
from .processes import join_processes, share_batch_norm, wrap_for_processes

# Settings of a data loader that PyTorch refuses without workers.
WORKER_SETTINGS = ('prefetch_factor', 'timeout', 'multiprocessing_context')
# Where the message hub keeps after how many epochs or iterations the last
# validation was. MMEngine would log a key that begins with val as a metric.
VALIDATED = 'last_validation'


@RUNNERS.register_module()
class CohortRunner(Runner):
    """MMEngine's runner, careful with files and plain about mistakes.

    - Checkpoints are opened as data, never as code, and must fit the model
      exactly.
    - A checkpoint is written beside its place and then renamed, so that a run
      that is killed leaves none half-written. MMEngine's own checkpoint hook
      is replaced by :class:`BranchCheckpointHook`, whose files hold data only.
    - A run that was killed at any moment and is resumed ends as an unbroken
      one: it goes on from the newest checkpoint that is intact, and makes up
      for a validation that was cut off.
    - A data set that cannot be used is reported with the place where it was
      looked for.
    - What cannot begin leaves the work directory as it was. The config there
      is that of the training: a run that only evaluates writes none.
    - The model's ``input_size``, if left out, is that of the data pipeline;
      the config in the work directory states it.
    - On a CPU, memory that a step has freed is kept for the next one, unless
      the config says ``env_cfg.keep_freed_memory=False``.
    - A run that is resumed gives each parameter its own state of the
      optimizer, by name, in whatever order the branches are written.
    - The optimizer is fused if it can be, and honours ``lr_mult`` and
      ``decay_mult`` of the branches; ``compile`` compiles each branch of a
      cohort by itself.
    - ``on_divergence`` says what happens when a loss is not finite:
      ``'stop'`` ends the run with a :class:`TrainingError`, ``'drop'`` goes
      on without the branch. See :class:`DivergenceWatch`.

    Configs ask for it with ``runner_type = 'mcod_plugin.CohortRunner'``, also
    under the toolbox's own ``tools/train.py``.

    Attributes:
        started (bool): Whether the first epoch has begun; until then, what
            goes wrong is due to settings or files.
    """

    started = False
    _trains = False
    # What a resumed run takes from its checkpoint besides weights.
    _resumes = _resumes_schedulers = False
    _log_dir = None

    def __init__(self, model: Union[nn.Module, dict], work_dir: str, *args,
                 **kwargs) -> None:
        self._made = missing_folders(work_dir)
        try:
            super().__init__(model, work_dir, *args, **kwargs)
        except BaseException:
            self.undo()
            raise

    def undo(self) -> None:
        """Remove what the start has made, unless the first epoch has begun.

        The work directory may be another run's as well, so nothing else in it
        is touched.
        """
        if self.started:
            return
        if self._log_dir is not None:
            shutil.rmtree(self._log_dir, ignore_errors=True)
        remove_empty(self._made)

    def call_hook(self, fn_name: str, **kwargs) -> None:
        """Call all hooks, and note the beginning of the first epoch."""
        if fn_name == 'after_val_epoch' and self._trains:
            # The checkpoints that are saved then tell it.
            self.message_hub.update_info(VALIDATED, self._progress()[1])
        super().call_hook(fn_name, **kwargs)
        if fn_name == 'before_train':
            # Not earlier: what is compiled cannot be traced any more, as for
            # the count of FLOPs.
            self._compile_branches()
            self._note_training()
            self._trains = True
            self._make_up_for_validation()
        if fn_name == 'after_train':
            for hook in self.hooks:
                if isinstance(hook, BranchCheckpointHook):
                    hook.note_end(self)
        if not self.started and fn_name in ('before_train_epoch',
                                            'before_val_epoch',
                                            'before_test_epoch'):
            self.started = True
            self.dump_config()

    @master_only
    def dump_config(self) -> None:
        """Write the config into the work directory, once a training begins.

        One that cannot begin leaves that of an earlier training alone, and so
        does an evaluation, whose own config is beside its log, in
        ``vis_data``.
        """
        if self.started and self._trains:
            name = osp.basename(self.cfg.filename or f'{self.timestamp}.py')
            if name.endswith('.py'):
                write_text(osp.join(self.work_dir, name), self.cfg.pretty_text)
            else:
                super().dump_config()

    def register_default_hooks(self,
                               hooks: Optional[Dict[str, Any]] = None) -> None:
        """Register the default hooks, among them one whose checkpoints can be
        opened again."""
        hooks = dict(hooks or {})
        checkpoint = hooks.setdefault('checkpoint',
                                      dict(type='CheckpointHook', interval=1))
        if is_part(checkpoint, CheckpointHook):
            hooks['checkpoint'] = type(checkpoint)(
                checkpoint, type='mcod_plugin.BranchCheckpointHook')
        # It watches whether training diverges.
        runtime = hooks.setdefault(
            'runtime_info', dict(type='mcod_plugin.CohortRuntimeInfoHook'))
        if self.cfg.get('on_divergence') == 'drop' and (
                runtime is None or is_part(runtime, RuntimeInfoHook)):
            raise ConfigError(
                "on_divergence='drop' needs default_hooks.runtime_info of "
                f'type mcod_plugin.CohortRuntimeInfoHook; got {runtime!r}')
        if not any(
                is_part(hook, RunRecordHook)
                for hook in self.cfg.get('custom_hooks') or ()):
            hooks.setdefault('run_record',
                             dict(type='mcod_plugin.RunRecordHook'))
        hooks.setdefault('buffer_sync',
                         dict(type='mcod_plugin.BufferSyncHook'))
        super().register_default_hooks(hooks)

    def setup_env(self, env_cfg: dict) -> None:
        """Set up the process, and join the others of a distributed run.

        Raises:
            ConfigError: If the launcher does not tell which process it is, or
                there are fewer GPUs than processes.
        """
        if self.distributed and not is_distributed():
            adopt_ranks(self.launcher)
            join_processes(env_cfg.get('dist_cfg') or {})
        super().setup_env(env_cfg)
        if get_device() == 'cpu' and env_cfg.get('keep_freed_memory', True):
            keep_freed_memory()

    def build_model(self, model: Union[nn.Module, dict]) -> nn.Module:
        """Build the model; a cohort learns the size of the images.

        Raises:
            ConfigError: If it is a cohort under test-time augmentation, or
                ``on_divergence`` is not possible.
        """
        if isinstance(model, dict) and 'branches' in (model.get('module')
                                                      or {}):
            raise ConfigError(
                f'test-time augmentation (--tta, {model.get("type")}) is not '
                'supported for a cohort: the scores of the branches would be '
                'those of one view')
        if isinstance(model, dict) and 'branches' in model:
            size = model.get('input_size')
            if size is None:
                size = data_input_size(
                    (self._test_dataloader, self._val_dataloader,
                     self._train_dataloader))
            if size is not None:
                model = type(model)(model, input_size=size)
        model = super().build_model(model)
        config = self.cfg.get('model')
        if isinstance(config, dict) and 'branches' in config:
            # What is written into the work directory and into checkpoints
            # makes the model without the data.
            height, width = model.input_size
            config['input_size'] = height if height == width else (height,
                                                                   width)
        on_divergence = self.cfg.get('on_divergence', 'stop')
        check_choice('on_divergence', on_divergence, ('stop', 'drop'))
        if on_divergence == 'drop' and not hasattr(model, 'leave_out'):
            raise ConfigError("on_divergence='drop' needs a cohort such as "
                              'mcod_plugin.MultiBackboneClassifier; got '
                              f'{type(model).__name__}')
        return model

    def wrap_model(self, model_wrapper_cfg: Optional[Dict],
                   model: nn.Module) -> nn.Module:
        """Wrap the model, if there are several processes.

        Raises:
            ConfigError: If batch norm cannot be shared as ``sync_bn`` asks.
        """
        if not self.distributed or is_model_wrapper(model):
            return super().wrap_model(model_wrapper_cfg, model)
        model = model.to(get_device())
        sync_bn = self.cfg.get('sync_bn')
        if sync_bn is not None:
            model = share_batch_norm(model, sync_bn)
        return wrap_for_processes(
            model, model_wrapper_cfg,
            self.cfg.get('find_unused_parameters', False))

    @staticmethod
    def build_dataloader(dataloader: Union[DataLoader, dict],
                         seed: Optional[int] = None,
                         diff_rank_seed: bool = False) -> DataLoader:
        """Build a data loader.

        That of an :class:`InMemoryDataset` needs no workers and gets none.
        For others that do not name a number, see :func:`default_workers`.

        Raises:
            ConfigError: If the data set cannot be used.
        """
        if isinstance(dataloader, DataLoader):
            return dataloader
        dataloader = dict(dataloader)
        dataloader.setdefault('num_workers', default_workers())
        dataset = dataloader.get('dataset', {})
        if is_in_memory(dataset):
            # It makes whole batches, where the images are.
            for key in WORKER_SETTINGS:
                dataloader.pop(key, None)
            dataloader.update(
                num_workers=0,
                persistent_workers=False,
                pin_memory=False,
                collate_fn=dict(type='mcod_plugin.batch_collate'))
        with explain_missing_data(dataset):
            return Runner.build_dataloader(dataloader, seed, diff_rank_seed)

    def build_evaluator(self, evaluator: Any) -> Evaluator:
        """Build an evaluator; metrics that take whole batches get them."""
        if isinstance(evaluator, list) or (isinstance(evaluator, dict)
                                           and 'metrics' not in evaluator):
            return CohortEvaluator(evaluator)
        return super().build_evaluator(evaluator)

    def build_train_loop(self, loop: Any) -> BaseLoop:
        """Build the training loop."""
        if isinstance(loop, dict) and 'type' not in loop:
            # MMEngine builds it without the registry, whose errors tell more.
            loop = dict(loop)
            by_epoch = loop.pop('by_epoch', None)
            check_choice('train_cfg.by_epoch', by_epoch, (True, False))
            loop['type'] = ('EpochBasedTrainLoop'
                            if by_epoch else 'IterBasedTrainLoop')
        return super().build_train_loop(loop)

    def build_val_loop(self, loop: Any) -> BaseLoop:
        """Build the loop of validation."""
        self._tell_emulated('val_cfg.fp16', loop)
        return super().build_val_loop(loop)

    def build_test_loop(self, loop: Any) -> BaseLoop:
        """Build the loop of a test."""
        self._tell_emulated('test_cfg.fp16', loop)
        return super().build_test_loop(loop)

    def _tell_emulated(self, setting: str, loop: Any) -> None:
        """Warn of an evaluation in bfloat16 that takes long."""
        if (isinstance(loop, dict) and loop.get('fp16')
                and get_device() == 'cpu' and not has_bfloat16()):
            self.logger.warning(
                f'{setting} (--amp): this CPU has no instructions for '
                'bfloat16, so it is emulated, up to 10 times as slow as '
                'float32.')

    def build_optim_wrapper(self, optim_wrapper: Any) -> Any:
        """Build the optimizer and its wrapper.

        Raises:
            ConfigError: If there is no such optimizer, the wrapper cannot be
                used on this machine or with how the model is compiled, or the
                constructor knows no branches.
        """
        if isinstance(optim_wrapper, dict):
            # MMEngine calls an optimizer that is unknown None.
            name = (optim_wrapper.get('optimizer') or {}).get('type')
            with OPTIMIZERS.switch_scope_and_registry(None) as registry:
                if isinstance(name, str) and registry.get(name) is None:
                    raise unknown_type('optim_wrapper.optimizer.type', name,
                                       registry)
            scaled = is_part(optim_wrapper, AmpOptimWrapper)
            if scaled and get_device() == 'cpu':
                raise ConfigError(
                    'optim_wrapper.type AmpOptimWrapper needs a GPU, and this '
                    'machine has none; mcod_plugin.AutocastOptimWrapper is '
                    'mixed precision on any device')
            counts = optim_wrapper.get('accumulative_counts', 1)
            if counts > 1 and uses_cuda_graphs(self.cfg.get('compile')):
                raise ConfigError(
                    'compile with CUDA graphs does not go with optim_wrapper.'
                    f'accumulative_counts, {counts}: a replay overwrites the '
                    'gradients that are to be added to; set compile=True')
            # A fused optimizer undoes the loss scaling itself, and would fail
            # on the checkpoint of a run in which it was not fused.
            if isinstance(optim_wrapper.get('optimizer'), dict) and not scaled:
                optimizer = prefer_fused(optim_wrapper['optimizer'],
                                         get_device())
                optim_wrapper = type(optim_wrapper)(
                    optim_wrapper, optimizer=optimizer)
            model = get_ori_model(self.model)
            optim_wrapper = with_branch_constructor(optim_wrapper, model)
            clip = optim_wrapper.get('clip_grad')
            learning = [
                settings
                for settings in getattr(model, 'branch_settings', {}).values()
                if not settings.frozen
            ]
            if clip and clip.get('type', 'norm') == 'norm' and learning[1:]:
                self.logger.warning(
                    'optim_wrapper.clip_grad clips by the norm over all '
                    'branches, so each depends on the others even if it is '
                    'never distilled.')
        built = super().build_optim_wrapper(optim_wrapper)
        if isinstance(built, OptimWrapper):
            name_parameters(built.optimizer, get_ori_model(self.model))
        return built

    def _maybe_compile(self, target: str) -> None:
        """Compile a model that is no cohort."""
        settings = compile_settings(self.cfg.get('compile'))
        is_cohort = hasattr(get_ori_model(self.model), 'branches')
        if settings is not None and not is_cohort:
            super()._maybe_compile(target)

    def _compile_branches(self) -> None:
        """Compile the branches of a cohort, each by itself.

        The step as a whole would be compiled anew for every ``kd_weight``.
        """
        branches = getattr(get_ori_model(self.model), 'branches', None)
        settings = compile_settings(self.cfg.get('compile'))
        if settings is None or branches is None:
            return
        # Branches of one class have their code in common, but must not share
        # its limit of versions: what is beyond it runs uncompiled.
        if 'isolate_recompiles' in signature(torch.compile).parameters:
            settings = {'isolate_recompiles': True, **settings}
        else:
            limits = torch._dynamo.config
            limits.cache_size_limit = max(limits.cache_size_limit,
                                          8 * len(branches))
        for branch in branches.values():
            branch.compile(**settings)
        self.logger.info('The branches are compiled. The first steps take '
                         'longer.')

    def train(self) -> nn.Module:
        """Train, and have the record tell how the run ends.

        Returns:
            nn.Module: The model.
        """
        try:
            return super().train()
        except BaseException as error:
            for hook in self.hooks:
                if isinstance(hook, RunRecordHook):
                    hook.note_end(self, error)
            raise

    def load_or_resume(self) -> None:
        """Load or resume, as the config asks for.

        Raises:
            ConfigError: If none of the checkpoints to resume from is intact,
                or not all processes find the same one.
        """
        if self._resume and self._load_from is None and not self._has_loaded:
            self._resume_latest()
        else:
            super().load_or_resume()
        if self._load_from is not None and not self._resume:
            # Checkpoints tell it, also once the run was resumed.
            self.message_hub.update_info('load_from', self._load_from)

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
                self.logger.warning(f'Passed over: {text}.')
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

    def _progress(self) -> Tuple[str, int, int]:
        """What training counts in, how many of them are done, and of how
        many."""
        if isinstance(self.train_loop, IterBasedTrainLoop):
            # To MMEngine the whole run is one epoch.
            return 'iteration', self.iter, self.max_iters
        return 'epoch', self.epoch, self.max_epochs

    def _make_up_for_validation(self) -> None:
        """Do the validation that is due if the run was cut off before its end,
        since the checkpoint is saved before."""
        loop = self.train_loop
        _, done, total = self._progress()
        if (self.val_loop is None or done == 0
                or not isinstance(loop,
                                  (EpochBasedTrainLoop, IterBasedTrainLoop))
                or self.message_hub.runtime_info.get(VALIDATED) == done):
            return
        # As the loop does.
        loop._decide_current_val_interval()
        if done >= loop.val_begin and (done % loop.val_interval == 0
                                       or done == total):
            self.logger.info(f'The validation after {done} '
                             f'{self._progress()[0]}s is made up for.')
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
        """Load a checkpoint's weights into the model.

        Args:
            filename (str): A local path or an ``http(s)`` address.
            map_location (str | Callable): See :func:`torch.load`.
                Defaults to ``'cpu'``.
            strict (bool): Whether all keys must match. A cohort insists on
                it in any case. Defaults to True.
            revise_keys (list): Pairs of pattern and replacement for the keys.
                Defaults to dropping the prefix ``module.``.

        Returns:
            dict: The checkpoint.

        Raises:
            ConfigError: If it cannot be opened or does not fit.
        """
        checkpoint = read_checkpoint(filename, map_location)
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        model = self.model.module if is_model_wrapper(
            self.model) else self.model
        try:
            _check_order(model, checkpoint)
            if self._resumes:
                self._check_state(model, checkpoint)
            checkpoint = _load_checkpoint_to_model(
                model, checkpoint, strict, revise_keys=revise_keys)
            if self._resumes:
                self._arrange_optimizer(filename, checkpoint)
        except (ConfigError, RuntimeError) as error:
            reason = ' '.join(str(error).split())
            raise ConfigError(f'{filename}: {reason}') from error
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
            if not state_faults(model.state_dict(),
                                checkpoint.get('state_dict', {})):
                raise
        if not self._resumes_schedulers:
            return
        own, saved = self.param_schedulers, checkpoint.get('param_schedulers')
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

    def _note_training(self) -> None:
        """Have checkpoints tell by what the run is trained."""
        own = precision(self.optim_wrapper)
        if self.iter > 0:
            used = self.message_hub.runtime_info.get('precision', own)
            own = ', '.join(dict.fromkeys([*used.split(', '), own]))
        self.message_hub.update_info('precision', own)
        if isinstance(self.optim_wrapper, OptimWrapper):
            self.message_hub.update_info(
                'optimizer',
                type(self.optim_wrapper.optimizer).__name__)

    def resume(self,
               filename: str,
               resume_optimizer: bool = True,
               resume_param_scheduler: bool = True,
               *args,
               **kwargs) -> None:
        """Go on with the run of a checkpoint, or do what is left of its end.

        Args:
            filename (str): The checkpoint.
            resume_optimizer (bool): Whether to restore the optimizer's state,
                by the names of the parameters. Defaults to True.
            resume_param_scheduler (bool): Whether to restore the states of
                schedulers. Defaults to True.
            *args, **kwargs: See :meth:`mmengine.runner.Runner.resume`.

        Raises:
            ConfigError: If the checkpoint holds weights only or does not fit,
                or its run has ended.
        """
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
            match_state(optimizer)
        own = precision(self.optim_wrapper)
        used = self.message_hub.runtime_info.get('precision', own)
        if used != own:
            self.logger.warning(f'The run of {filename} was trained in {used} '
                                f'so far and goes on in {own}.')
        info = self.message_hub.runtime_info
        unit, done, total = self._progress()
        setting = f'max_{"iters" if unit == "iteration" else "epochs"}'
        ended = info.pop(ENDED, False) and not any(
            isinstance(hook, RunRecordHook) and hook.is_missing()
            for hook in self.hooks)
        if done > total or done == total and ended:
            raise ConfigError(
                f'nothing to resume: {filename} is at {unit} {done} of '
                f'{total}; raise train_cfg.{setting} to go on')
        if done == total:
            self.logger.info(f'{filename} is at {unit} {done} of {total}. '
                             'What its run has not done any more is done now.')
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
        key.split('.')[1] for key in checkpoint.get('state_dict', ())
        if key.startswith('branches.'))
    for key in ('teacher', 'distill'):
        part = getattr(model, key, None)
        if getattr(part, 'ordered', False) and saved.keys() == set(
                model.branches) and list(saved) != list(model.branches):
            raise ConfigError(
                f'model.{key}.type {type(part).__name__} takes the branches '
                'in their order, so model.branches must be in that of the '
                f'checkpoint, {", ".join(saved)}; got '
                f'{", ".join(model.branches)}')
