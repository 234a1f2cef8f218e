"""Whether the training step of a run is recorded."""
from typing import Any, Optional

import torch
from mmengine.model import BaseModel, is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner

from mcod_plugin.errors import ConfigError, check_choice
from mcod_plugin.models import MultiBackboneClassifier
from ..optim_wrapper import AutocastOptimWrapper
from ..optim_wrapper.gradient_norms import GradientNorms
from .cuda_recorder import CudaRecorder
from .graphed_step import GraphedStep

__all__ = ['recorded_step']


def recorded_step(runner: Runner,
                  compiled_to_graphs: bool) -> Optional[GraphedStep]:
    """What stands for the model's ``train_step`` as one CUDA graph, if the
    setting ``cuda_graph`` of a run's config asks for it; None if the step is
    not recorded.

    With ``True`` it has to be had, with ``'auto'`` it is taken where it can
    be, and the log tells why it cannot, except on a machine without a GPU. The
    default is ``False``. ``compiled_to_graphs`` says whether the branches are
    compiled with CUDA graphs of their own.
    """
    setting = runner.cfg.get('cuda_graph', False)
    check_choice('cuda_graph', setting, ('auto', True, False))
    if not setting:
        return None
    recorder = make_recorder(runner)
    if recorder is None:
        if setting is True:
            raise ConfigError('cuda_graph=True needs a GPU by NVIDIA, and '
                              "this machine has none; set it to 'auto' or "
                              'False')
        return None
    reason = obstacle(runner, compiled_to_graphs)
    if reason is None:
        return GraphedStep(runner.model, runner.optim_wrapper, recorder,
                           setting is True)
    if setting is True:
        raise ConfigError(f'cuda_graph=True does not go with {reason}')
    runner.logger.warning("cuda_graph='auto': the training step is not "
                          f'recorded, which does not go with {reason}.')
    return None


def make_recorder(runner: Runner) -> Optional[CudaRecorder]:
    """What records on the device of a run; None if nothing can."""
    device = next(runner.model.parameters()).device
    if device.type != 'cuda' or torch.version.cuda is None:
        return None
    return CudaRecorder(list(getattr(runner.model, 'branches', ())))


def obstacle(runner: Runner, compiled_to_graphs: bool) -> Optional[str]:
    """The setting of a run, with its value, of which the training step cannot
    be recorded; None if there is none. See :func:`recorded_step`."""
    model, optim_wrapper = runner.model, runner.optim_wrapper
    if runner.distributed or is_model_wrapper(model):
        return 'several processes (--launcher)'
    if not isinstance(model, MultiBackboneClassifier) or (
            type(model).train_step is not BaseModel.train_step):
        return (f'model.type {type(model).__name__}, which is no '
                'MultiBackboneClassifier or has a train_step of its own')
    for name, settings in model.branch_settings.items():
        if settings.recompute and not settings.frozen:
            return (f'recompute of model.branches.{name}, which puts random '
                    'numbers back')
    if compiled_to_graphs:
        return ("compile with CUDA graphs of its own; set compile=True, its "
                'default mode')
    return _optimizer_obstacle(optim_wrapper) or _scheduler_obstacle(
        runner.param_schedulers)


def _optimizer_obstacle(optim_wrapper: Any) -> Optional[str]:
    # Others may look at values in between, as for a scaled loss.
    if type(optim_wrapper) not in (OptimWrapper, AutocastOptimWrapper):
        return (f'optim_wrapper.type {type(optim_wrapper).__name__}; it goes '
                'with OptimWrapper and mcod_plugin.AutocastOptimWrapper '
                '(--amp)')
    counts = optim_wrapper._accumulative_counts
    if counts != 1:
        return f'optim_wrapper.accumulative_counts, {counts}'
    clips = [
        optim_wrapper.clip_grad_kwargs or {}, *(
            settings for _, settings in getattr(optim_wrapper.optimizer,
                                                'clips', {}).values())
    ]
    if any(clips) and GradientNorms.of(optim_wrapper) is None:
        return ('optim_wrapper.clip_grad under another default_hooks.'
                'runtime_info than mcod_plugin.CohortRuntimeInfoHook')
    if any(clip.get('error_if_nonfinite') for clip in clips):
        return ('optim_wrapper.clip_grad.error_if_nonfinite, which has the '
                'host look at each norm')
    optimizer = optim_wrapper.optimizer
    for group in optimizer.param_groups:
        # Fused SGD takes a learning rate of the device; all others say by
        # this option whether they look at values.
        if not group.get('fused') and 'capturable' not in group:
            return (f'optim_wrapper.optimizer.type {type(optimizer).__name__}'
                    ', which is neither fused nor capturable')
    return None


def _scheduler_obstacle(schedulers: Any) -> Optional[str]:
    for scheduler in schedulers or ():
        name = getattr(scheduler, 'param_name', None)
        if name != 'lr':
            return (f'param_scheduler.type {type(scheduler).__name__}, which '
                    f'changes {name or "more than learning rates"}')
    return None
