import logging
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import MethodType
from typing import Any, Callable, Dict, Iterator, List, Optional, Set, Tuple

import torch
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper
from torch import Tensor

from mcod_plugin.errors import ConfigError, one_line
from mcod_plugin.models import BatchDataPreprocessor, MultiBackboneClassifier
from ..optim_wrapper.gradient_norms import GradientNorms
from .device_numbers import DeviceNumbers
from .fingerprint import (difference, fingerprint, group_settings,
                          plain_settings)
from .host_state import HostState
from .step_batch import StepBatch

__all__ = ['GraphedStep']

# Steps of a kind that are made as they are before one is recorded. What they
# make for good, such as momentum, plans of libraries and compiled code, must
# not be in a graph.
WARM_UP = 2
# The most kinds of steps that are recorded, each of which takes memory.
MAX_KINDS = 64


@dataclass
class _Recorded:
    """A step of one kind.

    Attributes:
        replay (Callable): Makes the step.
        batch (StepBatch): What it reads.
        names (list[str]): What it logs; norms of gradients come last.
        values (Tensor): The numbers, which a replay writes.
        norms (int): How many of them are norms.
        gives_ratio (bool): Whether it has met ``ratio_due``.
    """
    replay: Callable[[], Any]
    batch: StepBatch
    names: List[str]
    values: Tensor
    norms: int
    gives_ratio: bool


class GraphedStep:
    """Trains a cohort by recording its training step and replaying it.

    It stands where the model has its ``train_step``. Recorded is the step
    from the losses to the updated weights, and the preprocessor before it
    unless there are batch augmentations such as Mixup, which work as ever.
    For each kind of step there is a recording: which branches are distilled,
    whether the pull of the distillation is measured, shapes and types of the
    batch, settings of teacher, loss and optimizer. The first two steps of a
    kind are made as they are. What changes from step to step without a new
    kind, learning rates and the weights of the distillation, is read on the
    device.

    A replay is the step that the recording was made of: random numbers, batch
    norm, divergence and averages go on as they would. What a part computes in
    Python from something else that changes, is not seen.

    Args:
        model (MultiBackboneClassifier): The cohort.
        optim_wrapper (OptimWrapper): What updates it.
        recorder (CudaRecorder): Records on the device.
        strict (bool): Whether a step that cannot be recorded is an error.
            Otherwise it is told once, and training goes on as it is.

    Attributes:
        recordings (int): How many steps were recorded.
        replays (int): How many steps were replayed.
    """

    def __init__(self, model: MultiBackboneClassifier,
                 optim_wrapper: OptimWrapper, recorder: Any,
                 strict: bool) -> None:
        self.recordings = self.replays = 0
        self._model = model
        self._optim_wrapper = optim_wrapper
        self._optimizer = optim_wrapper.optimizer
        self._recorder = recorder
        self._strict = strict
        self._given_up = False
        self._device = next(model.parameters()).device
        self._rates = DeviceNumbers(
            len(self._optimizer.param_groups), self._device,
            recorder.rate_type)
        self._weights = DeviceNumbers(
            len(model.kd_weights), self._device, torch.float32)
        self._seen: Dict[tuple, int] = {}
        self._recorded: Dict[tuple, _Recorded] = {}
        self._mark: Optional[dict] = None
        self._in_doubt = False
        self._told: Set[str] = set()

    def doubt(self) -> None:
        """Before the next step, look whether the recordings still hold: hooks
        may have changed the model, and a validation comes and goes."""
        self._in_doubt = True

    def __call__(self, data: Any,
                 optim_wrapper: OptimWrapper) -> Dict[str, Tensor]:
        """Make a training step of a batch as the loader gives it, and return
        what is logged. Raise if the step cannot be recorded and has to be."""
        if self._given_up or optim_wrapper is not self._optim_wrapper:
            return type(self._model).train_step(self._model, data,
                                                optim_wrapper)
        if self._in_doubt:
            self._verify()
            self._in_doubt = False
        batch = StepBatch.of(data, raw=True) if self._prepares() else None
        if batch is None:
            with optim_wrapper.optim_context(self._model):
                data = self._model.data_preprocessor(data, True)
            batch = StepBatch.of(data)
        if batch is None:
            self._tell('the fields of its images cannot be stacked')
            return self._step(data, raw=False)
        kind = (self._model_kind(), batch.kind)
        if kind not in self._recorded:
            if len(self._seen) == MAX_KINDS and kind not in self._seen:
                self._tell(f'there are more than {MAX_KINDS} kinds of it, as '
                           'if a setting changed with every step')
                return self._step(data, batch.raw)
            self._seen[kind] = self._seen.get(kind, 0) + 1
            if self._seen[kind] <= WARM_UP:
                with self._recorder.warming_up(), self._streams():
                    return self._step(data, batch.raw)
            if not self._record(kind, batch):
                return self._step(data, batch.raw)
        return self._replay(kind, batch)

    def _prepares(self) -> bool:
        """Whether the preprocessor is recorded as well. Batch augmentations
        draw random numbers on the host."""
        preprocessor = self._model.data_preprocessor
        return (type(preprocessor) is BatchDataPreprocessor
                and preprocessor.batch_augments is None)

    def _model_kind(self) -> tuple:
        model = self._model
        distilled = ()
        if model.distill is not None:
            distilled = tuple(name
                              for name, weight in model.kd_weights.items()
                              if weight > 0)
        return (distilled, model.ratio_due and bool(distilled),
                plain_settings(model.teacher), model.distill is not None
                and plain_settings(model.distill),
                group_settings(self._optimizer))

    def _step(self, data: Any, raw: bool) -> Dict[str, Tensor]:
        """The step from images to updated weights."""
        model, optim_wrapper = self._model, self._optim_wrapper
        with optim_wrapper.optim_context(model):
            if raw:
                data = model.data_preprocessor(data, True)
            losses = model(**data, mode='loss')
        loss, log_vars = model.parse_losses(losses)
        optim_wrapper.update_params(loss)
        # Nobody keeps the graph of gradients: it remembers streams.
        return {key: value.detach() for key, value in log_vars.items()}

    def _record(self, kind: tuple, batch: StepBatch) -> bool:
        """Record a step, which leaves all as it is, and tell whether it could
        be recorded."""
        # First, since a count that moves is another address.
        _move_steps(self._optimizer)
        self._verify()
        model, optim_wrapper = self._model, self._optim_wrapper
        static = batch.copy_to(self._device)
        if static.raw:
            # What it keeps must not be in a graph.
            model.data_preprocessor(static.data, True)
        self._write_numbers()
        state = HostState(model, optim_wrapper, self._device)
        reason = None
        try:
            with self._numbers_on_device(), self._streams():
                replay, (names, values, norms) = self._recorder.record(
                    partial(self._recorded_step, static))
        except Exception as error:
            reason = one_line(error) or type(error).__name__
            optim_wrapper.zero_grad()
        gives_ratio = state.gives_ratio
        reason = state.restore() or reason
        if reason is not None:
            self._give_up(reason)
            return False
        self.recordings += 1
        self._recorded[kind] = _Recorded(replay, static, names, values, norms,
                                         gives_ratio)
        return True

    def _recorded_step(self, batch: StepBatch) -> Tuple[list, Tensor, int]:
        log_vars = self._step(batch.data, batch.raw)
        norms = GradientNorms.of(self._optim_wrapper)
        norms = {} if norms is None else norms.take()
        values = {**log_vars, **norms}
        return list(values), torch.stack(list(values.values())), len(norms)

    def _replay(self, kind: tuple, batch: StepBatch) -> Dict[str, Tensor]:
        recorded = self._recorded[kind]
        recorded.batch.copy_(batch)
        self._write_numbers()
        recorded.replay()
        self.replays += 1
        self._optim_wrapper._inner_count += 1
        if recorded.gives_ratio:
            self._model.ratio_due = False
        # The next replay writes over them.
        values = list(zip(recorded.names, recorded.values.clone().unbind()))
        number = len(values) - recorded.norms
        norms = GradientNorms.of(self._optim_wrapper)
        if norms is not None:
            norms.values.update(values[number:])
        return {**dict(values[:number]), **self._model.logged_weights()}

    def _write_numbers(self) -> None:
        """Tell the device the numbers of this step."""
        self._rates.write(group['lr']
                          for group in self._optimizer.param_groups)
        self._weights.write(
            float(weight) for weight in self._model.kd_weights.values())

    @contextmanager
    def _numbers_on_device(self) -> Iterator[None]:
        """Have the step read the numbers of :meth:`_write_numbers`."""
        model, groups = self._model, self._optimizer.param_groups
        before = [dict(group) for group in groups]
        for group, rate in zip(groups, self._rates.items):
            group['lr'] = rate
            if 'capturable' in group:
                group['capturable'] = True
        model.kd_factors = dict(zip(model.kd_weights, self._weights.items))
        try:
            yield
        finally:
            for group, settings in zip(groups, before):
                group.update(settings)
            model.kd_factors = None

    @contextmanager
    def _streams(self) -> Iterator[None]:
        """Have the branches work beside each other."""
        self._model.streams = self._recorder.streams
        try:
            yield
        finally:
            self._model.streams = None

    def __deepcopy__(self, memo: dict) -> Callable:
        """A copy of the model is trained as it is."""
        model = memo[id(self._model)]
        return MethodType(type(model).train_step, model)

    def _verify(self) -> None:
        """Drop the recordings if what they have built in is another now."""
        mark = fingerprint(self._model, self._optimizer)
        changed = self._mark and difference(self._mark, mark)
        if changed and self._recorded:
            print_log(
                f'The training step is recorded anew: {changed} has changed.',
                logger='current')
            self._seen.clear()
            self._drop()
        self._mark = mark

    def _drop(self) -> None:
        self._recorded.clear()
        self._recorder.forget()

    def _give_up(self, reason: str) -> None:
        """Record no step any more."""
        if self._strict:
            raise ConfigError(
                'cuda_graph=True: the training step cannot be recorded: '
                f"{reason}; set it to 'auto' or False")
        self._given_up = True
        self._drop()
        self._tell(reason)

    def _tell(self, reason: str) -> None:
        """Warn of steps that are not recorded, once."""
        if reason not in self._told:
            self._told.add(reason)
            print_log(
                'cuda_graph: the training step is not recorded, and takes '
                f'longer: {reason}.',
                logger='current',
                level=logging.WARNING)


def _move_steps(optimizer: torch.optim.Optimizer) -> None:
    """Count an optimizer's steps where the parameters are: one that is not
    fused counts them on the host."""
    for parameter, state in optimizer.state.items():
        step = state.get('step')
        if isinstance(step, Tensor) and step.device != parameter.device:
            state['step'] = step.to(parameter.device)
