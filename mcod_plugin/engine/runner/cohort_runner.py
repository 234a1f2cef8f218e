import copy
import os
import os.path as osp
import shutil
import sys
from contextlib import ExitStack, contextmanager
from inspect import isclass
from socket import gethostname
from typing import Any, Dict, Iterator, Optional, Union

import mmengine.optim
import torch.nn as nn
from mmengine.device import get_device
from mmengine.dist import (broadcast_object_list, get_world_size,
                           is_distributed, is_main_process, master_only)
from mmengine.evaluator import Evaluator
from mmengine.hooks import CheckpointHook, RuntimeInfoHook
from mmengine.logging import MMLogger
from mmengine.model import BaseModule, is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.optim.scheduler.momentum_scheduler import MomentumSchedulerMixin
from mmengine.runner import BaseLoop, LogProcessor, Runner
from mmpretrain.engine import SwitchRecipeHook
from mmpretrain.models.tta import AverageClsScoreTTA
from mmpretrain.utils import get_ori_model
from torch.utils.data import DataLoader

from mcod_plugin.config.input_size import data_input_size
from mcod_plugin.config.missing_data import explain_missing_data
from mcod_plugin.config.parts import is_part
from mcod_plugin.config.pretrained import is_pretrained
from mcod_plugin.datasets.in_memory_dataset import is_in_memory
from mcod_plugin.errors import ConfigError, check_choice, check_count
from mcod_plugin.evaluation import BranchMetrics, CohortEvaluator
from mcod_plugin.models.tta import CohortTTA
from mcod_plugin.models.utils.label_rule import check_augments
from mcod_plugin.registry import MODELS, RUNNERS
from mcod_plugin.utils.files import (claim, missing_folders, remove_empty,
                                     write_text)
from mcod_plugin.utils.launchers import adopt_ranks
from mcod_plugin.utils.checkpoint import last_checkpoint
from mcod_plugin.utils.machine import default_workers, keep_freed_memory
from mcod_plugin.utils.mesh import (branch_size, data_group, data_size,
                                    join_mesh)
from mcod_plugin.utils.process_end import begin_run, first_end
from ..graph import recorded_step
from ..hooks.branch_checkpoint_hook import BranchCheckpointHook
from ..hooks.cohort_runtime_info_hook import CohortRuntimeInfoHook
from ..hooks.discontinuous_kd_hook import (DiscontinuousKDHook,
                                           whole_schedule)
from ..hooks.progress_bar_hook import ProgressBarHook
from ..hooks.run_record_hook import RunRecordHook
from ..optim_wrapper import (has_bfloat16, name_parameters,
                             prepare_optim_wrapper)
from ..parallel import (BranchLayout, check_cohort, check_hooks,
                        check_settings, parallel_branches,
                        sample_by_data_rank)
from .batch_sizes import check_batches, check_last_batch
from .cohort_log_processor import CohortLogProcessor, quieten
from .compile_settings import (compile_branches, compile_settings,
                               uses_cuda_graphs)
from .processes import (check_wrapper, join_processes, share_batch_norm,
                        wrap_for_processes)
from .resuming_runner import ResumingRunner
from .view_settings import check_views, name_views

# Schedulers of the momentum, by all of their names.
MOMENTUM_SCHEDULERS = tuple(
    value for value in vars(mmengine.optim).values()
    if isclass(value) and issubclass(value, MomentumSchedulerMixin))
# The least values of settings of the training loop.
COUNTS = dict(max_epochs=1, max_iters=1, val_begin=0, val_interval=1)
# Settings of a data loader that PyTorch refuses without workers.
WORKER_SETTINGS = ('prefetch_factor', 'timeout', 'multiprocessing_context')

# The default hooks that MMEngine has itself. It takes None for no other.
MMENGINE_HOOKS = ('runtime_info', 'timer', 'sampler_seed', 'logger',
                  'param_scheduler', 'checkpoint')

# What shows in a work directory that a training is at it.
LOCK = 'training.lock'

# When everything is built and nothing has begun.
CHECKED = ('before_train', 'before_val', 'before_test')


@RUNNERS.register_module()
class CohortRunner(ResumingRunner):
    """MMEngine's runner for cohorts, which leaves no half-made files and
    reports mistakes in one line.

    - Checkpoints and resuming are those of :class:`ResumingRunner`. MMEngine's
      own checkpoint hook is replaced by :class:`BranchCheckpointHook`, whose
      files hold data only.
    - A data set that cannot be used is reported with the place where it was
      looked for.
    - What cannot begin leaves the work directory as it was. The config there
      is that of the training: a run that only evaluates writes none.
    - The model's ``input_size``, if left out, is that of the data pipeline;
      the config in the work directory states it.
    - On a CPU, memory that a step has freed is kept for the next one, unless
      the config says ``env_cfg.keep_freed_memory=False``.
    - The log has a line for each branch. What MMEngine tells of every run,
      such as the config, is in the log file and not printed.
    - The optimizer is fused if it can be, and honours ``lr_mult``,
      ``decay_mult``, ``optimizer`` and ``clip_grad`` of the branches;
      ``compile`` compiles each branch of a cohort by itself.
    - ``on_divergence`` says what happens when a loss is not finite:
      ``'stop'`` ends the run with a :class:`TrainingError`, ``'drop'`` goes
      on without the branch. See :class:`DivergenceWatch`.
    - ``cuda_graph`` has the whole training step replayed as one CUDA graph,
      see :func:`recorded_step`.
    - ``parallel=dict(branch=N)`` has N processes share the branches, see
      :class:`BranchLayout`.

    Configs ask for it with ``runner_type = 'mcod_plugin.CohortRunner'``, also
    under MMPretrain's own ``tools/train.py``.

    Attributes:
        started (bool): Whether the first epoch has begun; until then, what
            goes wrong is due to settings or files.
    """

    started = False
    _trains = False
    _log_dir = None
    # Whether it is that of a run that has begun in the same second.
    _shares_log_dir = False
    _graphed = None
    # Which branches live in this process, if not all of them do.
    layout: Optional[BranchLayout] = None
    # What all processes together save.
    _collected: Optional[dict] = None

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
        if self._log_dir is not None and not self._shares_log_dir:
            shutil.rmtree(self._log_dir, ignore_errors=True)
        remove_empty(self._made)

    def call_hook(self, fn_name: str, **kwargs) -> None:
        """Call all hooks, and note the beginning of the first epoch."""
        if fn_name == 'after_val_epoch' and self._trains:
            self.note_validation()
        if fn_name in CHECKED:
            self._check_metrics()
            self._check_batches(fn_name == 'before_train')
        if fn_name == 'before_save_checkpoint' and self._collected is not None:
            kwargs['checkpoint'].update(self._collected)
        super().call_hook(fn_name, **kwargs)
        if fn_name == 'before_train':
            self._begin_training()
        if self._graphed is not None and fn_name in ('before_train_epoch',
                                                     'after_val_epoch'):
            self._graphed.doubt()
        if fn_name == 'after_train':
            for hook in self.hooks:
                if isinstance(hook, BranchCheckpointHook):
                    hook.mark_as_ended(self)
        if not self.started and fn_name in ('before_train_epoch',
                                            'before_val_epoch',
                                            'before_test_epoch'):
            self.started = True
            self.dump_config()

    def _begin_training(self) -> None:
        """Do what has to wait for the hooks that are called before training:
        check the model, prepare its step, and validate if that was missed."""
        model = get_ori_model(self.model)
        if self.layout is not None:
            self.logger.info('Processes:\n%s', self.layout.table())
        self._tell_of_random_teachers(model)
        if hasattr(model, 'check_distillation'):
            model.check_distillation()
        check_wrapper(self.model,
                      compile_settings(self.cfg.get('compile')) is not None,
                      getattr(self.optim_wrapper, '_accumulative_counts', 1))
        # Not earlier: what is compiled cannot be traced any more, as for the
        # count of FLOPs.
        self._compile_branches()
        self._record_step()
        self.note_training()
        self._trains = True
        self.run_missed_validation()

    def _check_metrics(self) -> None:
        """Raise if a metric is not for what the model gives."""
        several = getattr(get_ori_model(self.model), 'multi_label', False)
        for loop in (self._val_loop, self._test_loop):
            # What is not going to be run is not built.
            evaluator = getattr(loop, 'evaluator', None)
            for metric in getattr(evaluator, 'metrics', ()):
                if isinstance(metric, BranchMetrics):
                    metric.check_labels(several)

    def _tell_of_random_teachers(self, model: nn.Module) -> None:
        """Warn of branches that only teach and have nothing to teach."""
        cfg = self.cfg.get('model')
        if (self._has_loaded or not isinstance(cfg, dict)
                or is_pretrained(dict(init_cfg=cfg.get('init_cfg')))):
            return
        for name in getattr(model, 'frozen', ()):
            # A plain network has the weights that whoever wrote it gave it.
            if isinstance(model.branches[name], BaseModule) and not (
                    is_pretrained(cfg['branches'][name])):
                self.logger.warning(
                    f'model.branches.{name} is frozen and teaches by random '
                    'weights; name those of a trained network by init_cfg='
                    "dict(type='Pretrained', checkpoint=...) or load_from.")

    def _check_batches(self, begins: bool) -> None:
        """Raise if a data loader gives none, or, where training begins, one
        that is too small for batch norm."""
        for name in ('train', 'val', 'test'):
            # What is not going to be run is not built.
            loop = getattr(self, f'_{name}_loop')
            check_batches(f'{name}_dataloader',
                          getattr(loop, 'dataloader', None))
        cohort = get_ori_model(self.model)
        if begins and hasattr(cohort, 'branch_logits'):
            check_last_batch(
                getattr(self._train_loop, 'dataloader', None), cohort)

    @master_only
    def dump_config(self) -> None:
        """Write the config into the work directory, once a training begins.

        One that cannot begin leaves that of an earlier training alone, and so
        does an evaluation, whose own config is beside its log, in
        ``vis_data``.
        """
        if self.started and self._trains:
            name = osp.basename(self.cfg.filename or f'{self.timestamp}.py')
            cfg = self.cfg
            if cfg.get('resume') and cfg.get('load_from'):
                # Another training by this config is not to go on from there.
                cfg = copy.deepcopy(cfg)
                cfg.load_from = None
            path = osp.join(self.work_dir, name)
            if name.endswith('.py'):
                write_text(path, cfg.pretty_text)
            else:
                cfg.dump(path)

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
        hooks.setdefault('run_figure',
                         dict(type='mcod_plugin.RunFigureHook'))
        hooks.setdefault('buffer_sync',
                         dict(type='mcod_plugin.BufferSyncHook'))
        if sys.stdout.isatty() and is_main_process():
            hooks.setdefault('progress_bar',
                             dict(type='mcod_plugin.ProgressBarHook'))
        super().register_default_hooks({
            name: hook
            for name, hook in hooks.items()
            if hook is not None or name in MMENGINE_HOOKS
        })

    def register_hooks(self, *args, **kwargs) -> None:
        """Register the hooks of ``default_hooks`` and ``custom_hooks``; see
        MMEngine.

        Raises:
            ConfigError: If processes share the branches and a hook takes it
                that each has all of them.
        """
        super().register_hooks(*args, **kwargs)
        if branch_size() > 1:
            check_hooks(self.hooks, branch_size())

    def register_custom_hooks(self, hooks: list) -> None:
        """Register the hooks of ``custom_hooks``.

        Raises:
            ConfigError: If one would change what a cohort does not have.
        """
        super().register_custom_hooks(hooks)
        for hook in self.cfg.get('custom_hooks') or ():
            if is_part(hook, DiscontinuousKDHook) and hook.get(
                    'weight') is None:
                # What is recorded tells the schedule.
                hook.update(whole_schedule(hook))
        recipes = [
            recipe for hook in self.hooks
            if isinstance(hook, SwitchRecipeHook)
            for recipe in hook.schedule.values()
        ]
        if any('train_pipeline' in recipe
               for recipe in recipes) and is_in_memory(
                   self.cfg.get('train_dataloader') or {}):
            raise ConfigError(
                'custom_hooks: SwitchRecipeHook cannot switch the '
                'train_pipeline of an InMemoryDataset; use its source as the '
                'data set')
        branches = getattr(get_ori_model(self.model), 'branches', None)
        if branches is None:
            return
        for recipe in recipes:
            if recipe.get('batch_augments') is not None:
                check_augments('custom_hooks: SwitchRecipeHook', branches,
                               recipe['batch_augments'])
        if any('loss' in recipe for recipe in recipes):
            raise ConfigError(
                'custom_hooks: SwitchRecipeHook cannot switch the loss of a '
                'cohort, each branch of which has a head of its own')

    def build_logger(self, *args, **kwargs) -> MMLogger:
        """Build the logger, which prints less than it writes."""
        logger = super().build_logger(*args, **kwargs)
        quieten(logger)
        return logger

    def build_log_processor(self, log_processor: Any) -> LogProcessor:
        """Build what makes the lines of the log."""
        if isinstance(log_processor, dict) and 'type' not in log_processor:
            return CohortLogProcessor(**log_processor)
        return super().build_log_processor(log_processor)

    def setup_env(self, env_cfg: dict) -> None:
        """Set up the process, and join the others of a distributed run.

        Raises:
            ConfigError: If the launcher does not tell which process it is,
                there are fewer GPUs than processes, or they cannot share the
                branches as ``parallel`` asks.
        """
        if self.distributed and not is_distributed():
            adopt_ranks(self.launcher)
            join_processes(env_cfg.get('dist_cfg') or {})
        super().setup_env(env_cfg)
        log_dir = osp.join(self.work_dir, self.timestamp)
        self._shares_log_dir = osp.isdir(log_dir) and bool(os.listdir(log_dir))
        branches = parallel_branches(self.cfg)
        if self.distributed and branches > 1:
            check_settings(self.cfg, branches)
        join_mesh(branches if self.distributed else 1)
        if get_device() == 'cpu' and env_cfg.get('keep_freed_memory', True):
            keep_freed_memory()

    def build_model(self, model: Union[nn.Module, dict]) -> nn.Module:
        """Build the model; a cohort learns the size of the images.

        Raises:
            ConfigError: If it is a cohort whose test-time augmentation
                averages the ensemble's scores only, or under MMEngine's
                ``activation_checkpointing`` or a ``strategy``, or
                ``on_divergence`` or the data's views of branches are not
                possible.
        """
        if isinstance(model, dict) and 'branches' in (model.get('module')
                                                      or {}):
            return self._build_tta(model)
        if isinstance(model, dict) and 'branches' in model:
            if self.cfg.get('activation_checkpointing') is not None:
                # Without a gradient of its input it gives none at all.
                raise ConfigError(
                    'activation_checkpointing would leave branches untrained; '
                    'set model.recompute=True, or recompute=True in a branch')
            if self.cfg.get('strategy') is not None:
                raise ConfigError(
                    f'strategy {self.cfg.strategy!r} is of FlexibleRunner, '
                    'which is not supported; leave it out, and see --launcher '
                    'for several processes')
            size = model.get('input_size')
            if size is None:
                size = data_input_size(
                    (self._test_dataloader, self._val_dataloader,
                     self._train_dataloader))
            if size is not None:
                model = type(model)(model, input_size=size)
        model = super().build_model(model)
        self._prepare_views(model)
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
        if branch_size() > 1:
            check_cohort(self.cfg, model, branch_size())
            self.layout = BranchLayout(model)
        return model

    def _prepare_views(self, model: nn.Module) -> None:
        """Tell the training data which branches have views of their own."""
        # Test-time augmentation wraps the cohort.
        model = getattr(model, 'module', model)
        for name in ('train', 'val', 'test'):
            check_views(f'{name}_dataloader',
                        getattr(self, f'_{name}_dataloader'), model)
        self._train_dataloader = name_views(
            self._train_dataloader, list(getattr(model, 'branches', ())))

    def _build_tta(self, model: dict) -> nn.Module:
        """Build a cohort with test-time augmentation."""
        kind = model.get('type')
        if kind is None or is_part(model, AverageClsScoreTTA):
            # The one that MMPretrain's tools ask for.
            kind = 'mcod_plugin.CohortTTA'
        outer = dict(model, type=kind)
        cohort = dict(outer.pop('module'))
        # MMEngine puts that of the config there.
        cohort['data_preprocessor'] = outer.pop(
            'data_preprocessor', None) or cohort.get('data_preprocessor')
        built = MODELS.build(dict(outer, module=self.build_model(cohort)))
        if not isinstance(built, CohortTTA):
            raise ConfigError(
                'tta_model.type must be mcod_plugin.CohortTTA or one derived '
                'from it, which averages the scores of the branches as well; '
                f'got {model.get("type")}')
        return built

    def wrap_model(self, model_wrapper_cfg: Optional[Dict],
                   model: nn.Module) -> nn.Module:
        """Wrap the model, if there are several processes.

        Raises:
            ConfigError: If batch norm cannot be shared as ``sync_bn`` asks.
        """
        if not self.distributed or is_model_wrapper(model):
            return super().wrap_model(model_wrapper_cfg, model)
        model = model.to(get_device())
        if self.layout is not None and data_size() == 1:
            # Nobody else has its branches.
            return model
        sync_bn = self.cfg.get('sync_bn')
        if sync_bn is not None:
            model = share_batch_norm(model, sync_bn)
        return wrap_for_processes(
            model, model_wrapper_cfg,
            self.cfg.get('find_unused_parameters', False), data_group())

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
            sample_by_data_rank(dataloader.sampler)
            return dataloader
        dataloader = dict(dataloader)
        chosen = dataloader.get('num_workers') is None
        if chosen:
            dataloader['num_workers'] = default_workers()
        dataset = dataloader.get('dataset', {})
        in_memory = is_in_memory(dataset)
        if in_memory or chosen and not dataloader['num_workers']:
            for key in WORKER_SETTINGS:
                dataloader.pop(key, None)
            dataloader.update(num_workers=0, persistent_workers=False)
        if in_memory:
            # It makes whole batches, where the images are.
            dataloader.update(
                pin_memory=False,
                collate_fn=dict(type='mcod_plugin.batch_collate'))
        with explain_missing_data(dataset):
            built = Runner.build_dataloader(dataloader, seed, diff_rank_seed)
        sample_by_data_rank(built.sampler)
        return built

    def build_evaluator(self, evaluator: Any) -> Evaluator:
        """Build an evaluator; metrics that take whole batches get them."""
        if isinstance(evaluator, list) or (isinstance(evaluator, dict)
                                           and 'metrics' not in evaluator):
            return CohortEvaluator(evaluator)
        return super().build_evaluator(evaluator)

    def build_train_loop(self, loop: Any) -> BaseLoop:
        """Build the training loop.

        Raises:
            ConfigError: If a length or the place of a validation is no number
                that it can be.
        """
        if isinstance(loop, dict):
            for key, least in COUNTS.items():
                if loop.get(key) is not None:
                    check_count(f'train_cfg.{key}', loop[key], least)
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
        self._warn_of_emulation('val_cfg.fp16', loop)
        return _sharing(super().build_val_loop(loop))

    def build_test_loop(self, loop: Any) -> BaseLoop:
        """Build the loop of a test."""
        self._warn_of_emulation('test_cfg.fp16', loop)
        return _sharing(super().build_test_loop(loop))

    def _warn_of_emulation(self, setting: str, loop: Any) -> None:
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
            ConfigError: If there is no such optimizer or way to clip
                gradients, the wrapper cannot be used on this machine or with
                how the model is compiled, or the constructor knows no
                branches.
        """
        model = get_ori_model(self.model)
        if isinstance(optim_wrapper, dict):
            optim_wrapper = prepare_optim_wrapper(
                optim_wrapper, model,
                uses_cuda_graphs(self.cfg.get('compile')))
        built = super().build_optim_wrapper(optim_wrapper)
        if isinstance(built, OptimWrapper):
            name_parameters(built.optimizer, model)
        return built

    def build_param_scheduler(self, scheduler: Any) -> Any:
        """Build the schedulers.

        Raises:
            ConfigError: If one is of the momentum, which not all optimizers
                have alike.
        """
        optimizer = getattr(self.optim_wrapper, 'optimizer', None)
        parts = scheduler if isinstance(scheduler, list) else [scheduler]
        kinds = {
            'betas' if 'betas' in group else 'momentum' in group
            for group in getattr(optimizer, 'param_groups', ())
        }
        for part in parts:
            if len(kinds) > 1 and is_part(part, MOMENTUM_SCHEDULERS):
                raise ConfigError(
                    f'param_scheduler.type {part["type"]} is of the momentum, '
                    'which not all optimizers of the branches have, or not by '
                    'the same name; take it out')
        return super().build_param_scheduler(scheduler)

    def scale_lr(self, *args, **kwargs) -> None:
        """Scale the learning rate by the number of images of a step; see
        MMEngine."""
        processes = self._world_size
        self._world_size = data_size()
        try:
            super().scale_lr(*args, **kwargs)
        finally:
            self._world_size = processes

    def _init_model_weights(self) -> None:
        """Initialise the weights, as one process does that has all."""
        if self.layout is None:
            super()._init_model_weights()
            return
        with self.layout.whole():
            super()._init_model_weights()

    def save_checkpoint(self,
                        out_dir: str,
                        filename: str,
                        file_client_args: Optional[dict] = None,
                        save_optimizer: bool = True,
                        save_param_scheduler: bool = True,
                        *args,
                        **kwargs) -> None:
        """Save a checkpoint, which all processes call if they share the
        branches; see MMEngine."""
        if self.layout is not None:
            for hook in self.hooks:
                if isinstance(hook, CohortRuntimeInfoHook):
                    hook.settle(self)
            model = get_ori_model(self.model)
            part = dict(state_dict=model.state_dict())
            if save_optimizer:
                part['optimizer'] = self.optim_wrapper.state_dict()
            if save_param_scheduler and self.param_schedulers is not None:
                part['param_schedulers'] = [
                    scheduler.state_dict()
                    for scheduler in self.param_schedulers
                ]
            self._collected = self.layout.collect(part)
        try:
            super().save_checkpoint(out_dir, filename, file_client_args,
                                    save_optimizer, save_param_scheduler,
                                    *args, **kwargs)
        finally:
            self._collected = None

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
        if settings is not None and branches is not None:
            compile_branches(branches, settings)
            self.logger.info('The branches are compiled. The first steps take '
                             'longer.')

    def _record_step(self) -> None:
        """Have the training step of a cohort recorded and replayed, if
        ``cuda_graph`` asks for it."""
        self._graphed = recorded_step(
            self, uses_cuda_graphs(self.cfg.get('compile')))
        if self._graphed is not None:
            # As MMEngine does with what it compiles.
            self.model.train_step = self._graphed
            self.logger.info('The training step is recorded as CUDA graphs. '
                             'The first steps take longer.')

    def train(self) -> nn.Module:
        """Train, and have the record tell how the run ends.

        Returns:
            nn.Module: The model.

        Raises:
            ConfigError: If another process trains in the same work directory.
        """
        if branch_size() == 1 and parallel_branches(self.cfg) > 1:
            # There is one process.
            check_settings(self.cfg, parallel_branches(self.cfg))
        begin_run()
        with self._sole_training():
            try:
                return super().train()
            except BaseException as error:
                try:
                    self._note_end(error)
                except SystemExit:
                    # It was stopped in the midst of that, by a launcher that
                    # has seen another process end. It is not stopped again.
                    self._note_end(error)
                    raise
                raise
            finally:
                for hook in self.hooks:
                    if isinstance(hook, ProgressBarHook):
                        hook.stop()
                if self._graphed is not None:
                    del self.model.train_step
                    self._graphed = None

    def _note_end(self, error: BaseException) -> None:
        # Before other processes are surprised by it.
        outcome = first_end(error).outcome
        for hook in self.hooks:
            if isinstance(hook, RunRecordHook):
                hook.note_end(self, outcome)

    @contextmanager
    def _sole_training(self) -> Iterator[None]:
        """Keep other trainings out of the work directory: they would resume
        from each other's checkpoints, and remove them."""
        with ExitStack() as stack:
            others = [None]
            if is_main_process():
                others[0] = stack.enter_context(
                    claim(
                        osp.join(self.work_dir, LOCK),
                        f'process {os.getpid()} on {gethostname()}'))
            broadcast_object_list(others)
            if others[0] is not None:
                raise ConfigError(
                    f'work_dir {self.work_dir} is in use by another training, '
                    f'{others[0] or "which has just begun"}; wait for its '
                    f'end, or name another --work-dir; if that process is '
                    f'gone, remove {osp.join(self.work_dir, LOCK)}')
            earlier = last_checkpoint(self.work_dir)
            if earlier and not self._resume:
                self.logger.warning(
                    f'{self.work_dir} holds another run, up to {earlier}. '
                    'This one begins anew and takes the place of its files, '
                    'as far as they have the same names; --resume would go on '
                    'with it, and --work-dir would keep both.')
            yield


def _sharing(loop: BaseLoop) -> BaseLoop:
    """Have processes that see the same images share out the predictions."""
    if branch_size() > 1:
        if not isinstance(loop.evaluator, CohortEvaluator):
            raise ConfigError(
                f'parallel.branch={branch_size()} needs an evaluator of type '
                'mcod_plugin.CohortEvaluator; got '
                f'{type(loop.evaluator).__name__}')
        images = len(loop.dataloader.dataset)
        if images < get_world_size():
            # Some would have nothing to gather.
            raise ConfigError(
                f'parallel.branch={branch_size()} needs an image for each of '
                f'the {get_world_size()} processes; the data set has {images}')
        loop.evaluator.images = images
    return loop
