import math
from dataclasses import dataclass
from typing import Dict, Iterable, List, Mapping, Sequence, Tuple

import torch
import torch.nn as nn
from mmengine.dist import all_gather_object, get_world_size
from mmengine.optim import AmpOptimWrapper
from mmengine.runner import Runner
from mmpretrain.utils import get_ori_model
from torch.nn.modules.batchnorm import _NormBase

from mcod_plugin.errors import ConfigError, TrainingError
from mcod_plugin.models.heads.ensemble_teacher import AVERAGES
from mcod_plugin.models.utils.branch_peers import RemoteBranch
from mcod_plugin.utils.checkpoint import branch_of
from mcod_plugin.utils.mesh import branch_size
from mcod_plugin.utils.units import progress

# Where the message hub keeps the branches that are left out, so that they are
# saved and resumed with the run: by name the ``epoch`` and ``iteration``, both
# counted from 1, and the learning rate ``lr``.
DIVERGED = 'diverged'

# A loss that was read: its key, the number, the iteration (from 1) and the
# learning rates of the optimizer's groups.
Reading = Tuple[str, float, int, Mapping[str, Sequence[float]]]


@dataclass(frozen=True, order=True)
class Fault:
    """Something that is not finite.

    Attributes:
        iteration (int): When, counted from 1.
        place (int): How far from the cause it is likely to be: 0 for the own
            loss of a branch, 1 for weights, 2 for what a distillation may
            have handed on, or a sum.
        epoch (int): When, counted from 1.
        what (str): What it is, in words.
        lr (float): The learning rate.
    """

    iteration: int
    place: int
    epoch: int
    what: str
    lr: float

    def __str__(self) -> str:
        return f'{self.what} at learning rate {self.lr:g}'


class DivergenceWatch:
    """Ends a run that has diverged, or has it go on without the branches that
    have.

    It looks at what the host has read anyway, and at the weights when a
    checkpoint may be due. The setting ``on_divergence`` of the config says
    what happens: with ``'stop'`` a :class:`TrainingError` is raised, on all
    ranks. With ``'drop'`` the model itself has left out the branch already,
    see :meth:`MultiBackboneClassifier.leave_out_diverged`; the log and the
    message hub tell of it, and the run ends once no trained branch is left.

    Args:
        runner (Runner): The runner, whose training is about to begin.

    Raises:
        ConfigError: If weights are not finite before it, unless the run goes
            on without their branch.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._model = get_ori_model(runner.model)
        self._drops = runner.cfg.get('on_divergence') == 'drop'
        self._faults: Dict[str, Fault] = {}
        self._looked = -1
        if self._drops or self._left_out:
            self._model.leave_out_diverged(
                scaled=isinstance(runner.optim_wrapper, AmpOptimWrapper))
            self._model.leave_out(self._left_out)
        broken = set(broken_parts(self._model)) - set(self._left_out)
        if broken and not self._drops:
            raise ConfigError(
                f'the weights of {", ".join(sorted(broken))} are not finite '
                'before training; begin with others (load_from, init_cfg), or '
                "set on_divergence='drop' to go on without a branch")

    @property
    def _left_out(self) -> Dict[str, dict]:
        """The branches that have been told to be left out."""
        return self._runner.message_hub.runtime_info.get(DIVERGED, {})

    @property
    def _branches(self) -> Mapping[str, nn.Module]:
        return getattr(self._model, 'branches', {})

    def check_losses(self, losses: Iterable[Reading]) -> None:
        """Note which losses are not finite. Of each are given its key, such as
        ``train/vgg.loss_ce``, the number, the iteration from 1, and the
        learning rates as ``OptimWrapper.get_lr()`` gives them."""
        for key, number, iteration, rates in losses:
            if math.isfinite(number):
                continue
            name, _, loss = key.partition('/')[2].rpartition('.')
            what = f'the loss of {name} is {number}' if name else (
                f'the loss is {number}')
            self._note(name, what, iteration, rates,
                       2 if not name or loss == 'loss_kd' else 0)

    def check_weights(self, iteration: int) -> None:
        """Note which weights are not finite after so many iterations, unless
        it was done."""
        if self._looked == iteration:
            return
        self._looked = iteration
        for name in broken_parts(self._model):
            self._note(name, f'the weights of {name} are not finite',
                       iteration, self._runner.optim_wrapper.get_lr(), 1)

    def handle_faults(self, iteration: int) -> None:
        """Do what is to be done after so many iterations, and raise a
        TrainingError if the run cannot go on. All ranks call it in the same
        places."""
        if self._drops:
            # Those without a loss, such as a frozen teacher.
            for name, alive in zip(self._branches, self._model.alive.tolist()):
                if not alive and name not in self._faults:
                    self._note(name, f'the logits of {name} are not finite',
                               iteration, self._runner.optim_wrapper.get_lr(),
                               1)
        faults, self._faults = self._faults, {}
        if get_world_size() > 1:
            parts = all_gather_object(faults)
            faults = {}
            for name, fault in (item for part in parts
                                for item in part.items()):
                faults[name] = min(fault, faults.get(name, fault))
        if faults:
            self._act(faults)

    def raise_if_faulty(self) -> None:
        """Raise if something is noted without which the run would not go on
        and which is still to be settled, so that no checkpoint is written."""
        if self._faults and not self._drops:
            self._stop(self._faults)

    def _note(self, name: str, what: str, iteration: int,
              rates: Mapping[str, Sequence[float]], place: int) -> None:
        if name in self._left_out or name in self._branches and isinstance(
                self._branches[name], RemoteBranch):
            # The process of a branch knows its learning rate.
            return
        fault = Fault(iteration, place, self._runner.epoch + 1, what,
                      self._rate(name, rates))
        self._faults[name] = min(fault, self._faults.get(name, fault))

    def _rate(self, name: str, rates: Mapping[str, Sequence[float]]) -> float:
        """The learning rate of a branch among those of all groups."""
        values = rates.get('lr') or next(iter(rates.values()), [math.nan])
        groups = getattr(self._runner.optim_wrapper, 'param_groups', [])
        if name in self._branches:
            own = set(map(id, self._branches[name].parameters()))
            for group, value in zip(groups, values):
                if own & set(map(id, group['params'])):
                    return value
        return values[0]

    def _act(self, faults: Dict[str, Fault]) -> None:
        # Of what is no branch, such as a gate, a run cannot do without.
        rest = {
            name: fault
            for name, fault in faults.items() if name not in self._branches
        }
        if not self._drops or rest:
            self._stop(rest if self._drops else faults)
        self._model.leave_out(faults)
        self._runner.message_hub.update_info(
            DIVERGED,
            dict(
                self._left_out, **{
                    name: dict(
                        epoch=fault.epoch,
                        iteration=fault.iteration,
                        lr=fault.lr)
                    for name, fault in faults.items()
                }))
        for name, fault in faults.items():
            self._runner.logger.warning(
                f'{name} is left out from now on: {self._when(fault)}: '
                f'{fault}.')
        if not set(self._branches) - {*self._left_out, *self._model.frozen}:
            self._stop(faults, 'no branch is left to train')

    def _stop(self, faults: Dict[str, Fault], why: str = '') -> None:
        first = min(faults.values())
        together = [
            fault for fault in faults.values()
            if (fault.iteration, fault.place) == (first.iteration, first.place)
        ]
        several = len(together) > 1 or why
        advice = ('lower the learning rate' +
                  ', and look for NaN in the images' * bool(several))
        if not self._drops and branch_size() == 1 and len(
                self._branches) > len(together):
            advice += (", or set on_divergence='drop' to go on without a "
                       'branch that diverges')
        text = '; '.join(filter(None, [
            f'training has diverged in {self._when(first)}: '
            f'{", ".join(map(str, together))}',
            why,
            'the checkpoints from before are finite',
            advice]))  # yapf: disable
        self._runner.logger.warning(text)
        raise TrainingError(text)

    def _when(self, fault: Fault) -> str:
        # To MMEngine a run in iterations is one epoch.
        by_epoch = progress(self._runner)[0] == 'epoch'
        return (f'epoch {fault.epoch}, ' * by_epoch +
                f'iteration {fault.iteration}')


def diverged_branches(checkpoint: dict) -> Dict[str, dict]:
    """The branches that a run has left out, by a checkpoint of it: by name
    ``epoch``, ``iteration`` and ``lr``."""
    hub = checkpoint.get('message_hub') or {}
    return hub.get('runtime_info', {}).get(DIVERGED, {})


def broken_parts(model: nn.Module) -> List[str]:
    """The branches, and other children of a model, with weights, or running
    statistics of a norm, that are not finite. Other buffers are left alone: a
    mask may be infinite."""
    parts: Dict[str, List[torch.Tensor]] = {}

    def add(name: str, tensor: torch.Tensor) -> None:
        part = branch_of(name) or name.partition('.')[0]
        parts.setdefault(part, []).append(tensor.detach().isfinite().all())

    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            add(name, parameter)
    for name, module in model.named_modules():
        # Those of an average are copies of its branch's.
        if isinstance(module, _NormBase) and not name.startswith(AVERAGES):
            for value in (module.running_mean, module.running_var):
                if value is not None:
                    add(name, value)
    if not parts:
        return []
    flags = torch.stack([torch.stack(found).all() for found in parts.values()])
    return [name for name, good in zip(parts, flags.tolist()) if not good]
