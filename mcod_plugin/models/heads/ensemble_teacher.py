import math
from typing import Dict, List, Mapping, Optional, Sequence, Union

import torch
from torch import Tensor, nn

from mcod_plugin.errors import (ConfigError, check_branches, check_choice,
                                check_names, check_number)
from mcod_plugin.registry import MODELS
from ..utils.branch_averages import BranchAverages
from .base_teacher import BaseTeacher
from .fusion import (confident_logits, mean_logits, mean_probabilities,
                     min_logits)

FUSIONS = {'mean': mean_logits, 'prob_mean': mean_probabilities}
# These ask how right a branch is.
LABELLED_FUSIONS = {'min_logit': min_logits, 'confidence': confident_logits}
# What begins the keys of the branches' averages in a cohort's state dict.
AVERAGES = 'teacher.ema.'


@MODELS.register_module()
class EnsembleTeacher(BaseTeacher):
    """From all branches' logits to the targets and to the prediction of the
    ensemble.

    Args:
        fusion (str): The rule that makes one out of many:

            - ``'mean'``: mean of the logits.
            - ``'prob_mean'``: mean of the probabilities.
            - ``'min_logit'``: the least of the logits relative to the true
              class's, see :func:`min_logits`.
            - ``'confidence'``: mean of the logits, weighted for each image by
              how well a branch does there, see :func:`confident_logits`.

            The last two need labels, which there are none of for a
            prediction: the ensemble predicts by the mean of the logits then.
            Defaults to ``'mean'``.
        weights (dict[str, float], optional): How much a branch counts in
            ``'mean'`` and ``'prob_mean'``, in any unit; one that is not named
            counts 1. Defaults to equal weights.
        leave_one_out (bool): Whether the target of a branch is the ensemble
            of all others, without itself. Defaults to False.
        members (str | Sequence[str], optional): Names of the branches of
            which the targets are made. A branch that is the only member has
            no target, since that would be itself; the others follow it. The
            prediction is the ensemble of all branches in any case, so that
            it means the same whoever teaches. Defaults to all branches.
        ema (float, optional): With it, not the branches teach but their
            exponential moving averages over the steps of the optimizer, in
            eval mode: how much of an average is kept in a step, at least 0
            and less than 1. ``0.999`` remembers about the last thousand
            steps. A frozen branch is its own average. Buffers, such as the
            statistics of batch norm, are the branch's present ones.

            The averages begin at the weights that the branches begin with,
            stand under ``teacher.ema.<branch>.<key>`` in the cohort's state
            dict, and take the memory of the branches' weights once more. In
            on-phases each costs a forward pass besides. The prediction is
            that of the branches in any case.

            Weights averaged over time teach as in `Mean Teacher
            <https://arxiv.org/abs/1703.01780>`_, and of every network of a
            cohort as the peer mean teachers of `Peer Collaborative Learning
            <https://arxiv.org/abs/2006.04147>`_ (PCL). PCL's peers are
            branches of one network, each of which learns from the averages of
            the others and from a classifier on the features of all. Here the
            networks differ and share nothing, and the averages are made one
            by ``fusion``, with the branch's own unless ``leave_one_out``; the
            factor does not grow from step to step.
            Defaults to None, that the branches teach.

    Attributes:
        ema (nn.ModuleDict): The averages by branch; None without.
        needs_images (bool): Whether the images are needed for the targets,
            which the averages are.
        needs_labels (bool): Whether labels are needed for the targets.
        takes_alive (bool): That branches can be left out.

    Raises:
        ConfigError: If a setting is none of those allowed.

    Examples:
        >>> teacher = EnsembleTeacher(fusion='mean')
        >>> logits = dict(a=torch.rand(4, 10), b=torch.rand(4, 10))
        >>> teacher.ensemble(logits).shape
        torch.Size([4, 10])
        >>> list(teacher(logits))
        ['a', 'b']
        >>> list(EnsembleTeacher(members='a')(logits))
        ['b']
        >>> model = dict(teacher=dict(
        ...     type='mcod_plugin.EnsembleTeacher', ema=0.999))
    """

    takes_alive = True
    takes_multi_label = True

    def __init__(self,
                 fusion: str = 'mean',
                 weights: Optional[Mapping[str, float]] = None,
                 leave_one_out: bool = False,
                 members: Optional[Union[str, Sequence[str]]] = None,
                 ema: Optional[float] = None) -> None:
        super().__init__()
        check_choice('model.teacher.fusion', fusion,
                     [*FUSIONS, *LABELLED_FUSIONS])
        check_choice('model.teacher.leave_one_out', leave_one_out,
                     (True, False))
        self.fusion = fusion
        self.needs_labels = fusion in LABELLED_FUSIONS
        self.weights = None if weights is None else self._parse(weights)
        self.leave_one_out = leave_one_out
        if isinstance(members, str):
            members = [members]
        if members is not None:
            check_names('model.teacher.members', members)
        self.members = None if members is None else list(members)
        if ema is not None:
            check_number('model.teacher.ema', ema, minimum=0)
            if ema >= 1:
                raise ConfigError('model.teacher.ema must be less than 1; got '
                                  f'{ema!r}')
        self.decay = ema
        self.needs_images = ema is not None
        self.averages = None if ema is None else BranchAverages(ema)
        # They are moved and saved with the cohort.
        self.ema = None if ema is None else self.averages.networks

    def _parse(self, weights: Mapping[str, float]) -> Dict[str, float]:
        setting = 'model.teacher.weights'
        if self.needs_labels:
            raise ConfigError(
                f'{setting} are for the fusions {", ".join(FUSIONS)}; got '
                f'fusion {self.fusion!r}, which weighs by itself')
        if not isinstance(weights, dict):
            raise ConfigError(f'{setting} must be a dict from branches to '
                              f'numbers; got {weights!r}')
        for name, weight in weights.items():
            check_number(f'{setting}.{name}', weight, minimum=0)
        return {name: float(weight) for name, weight in weights.items()}

    def setup(self, names: Sequence[str], num_classes: int) -> None:
        """Check the settings against the cohort, see
        :meth:`BaseTeacher.setup`: they must name branches that there are,
        leave something to teach with, and suit images of several labels."""
        if self.multi_label and self.fusion != 'mean':
            raise ConfigError(
                "model.teacher.fusion must be 'mean' for images of several "
                f'labels; got {self.fusion!r}, which takes probabilities '
                'whose sum is 1')
        for setting in ('members', 'weights'):
            check_branches(f'model.teacher.{setting}',
                           getattr(self, setting) or (), names)
        if self.leave_one_out and len(names) < 2:
            raise ConfigError('model.teacher.leave_one_out needs at least two '
                              f'branches; got {", ".join(names)}')
        # The ensemble of all predicts, the others are targets.
        groups = [names, *(self._teachers(name, names) for name in names)]
        for group in groups if self.weights else ():
            if group and not any(self._weights(group)):
                raise ConfigError(
                    'model.teacher.weights must not be 0 for all that teach '
                    f'together ({", ".join(group)}); got {self.weights!r}')

    def begin(self, branches: Mapping[str, nn.Module]) -> None:
        """Begin the averages, if there are to be any, see
        :meth:`BaseTeacher.begin`. A trained branch must teach, and be one that
        can be copied."""
        if self.averages is None:
            return
        teaching = {
            name: branch
            for name, branch in branches.items()
            if self.members is None or name in self.members
        }
        if not teaching:
            raise ConfigError(
                'model.teacher.ema is for branches that are trained; all of '
                f'model.teacher.members ({", ".join(self.members)}) are '
                'frozen')
        self.averages.begin(teaching)

    def missing_state(self, state_dict: Mapping[str,
                                                Tensor]) -> Dict[str, Tensor]:
        """The averages for weights of a cohort that come without any: they
        begin at these weights, see :meth:`BaseTeacher.missing_state`."""
        if self.ema is None or any(
                key.startswith(AVERAGES) for key in state_dict):
            return {}
        sources = {
            f'{AVERAGES}{key}': f'branches.{key}'
            for key in self.ema.state_dict()
        }
        return {
            key: state_dict[source].clone()
            for key, source in sources.items() if source in state_dict
        }

    def _teachers(self, name: str, names: Sequence[str]) -> Sequence[str]:
        """The branches that a branch follows."""
        if self.members == [name]:
            return []
        return [
            member for member in self.members or names
            if not (self.leave_one_out and member == name)
        ]

    def _weights(self, names: Sequence[str]) -> Sequence[float]:
        return [(self.weights or {}).get(name, 1.) for name in names]

    def ensemble(self,
                 logits: Dict[str, Tensor],
                 alive: Optional[Dict[str, Tensor]] = None) -> Tensor:
        """The prediction of the ensemble of all branches, see
        :meth:`BaseTeacher.ensemble`; the mean of the logits if the fusion
        needs labels. Branches that are not ``alive`` are left out; their
        logits must be finite all the same."""
        fuse = FUSIONS['mean' if self.needs_labels else self.fusion]
        weights = self.weights and self._weights(logits)
        return fuse(
            list(logits.values()), weights or None, _flags(logits, alive))

    @torch.no_grad()
    def forward(
            self,
            logits: Dict[str, Tensor],
            labels: Optional[Tensor] = None,
            alive: Optional[Dict[str, Tensor]] = None,
            images: Optional[Dict[str, Tensor]] = None) -> Dict[str, Tensor]:
        """What each branch has to follow, see :meth:`BaseTeacher.forward`. NaN
        where all whom a branch follows are left out."""
        if self.averages is not None:
            averaged = self.averages.logits(images)
            if alive is not None:
                # The average of a branch that has diverged has, too.
                averaged = {
                    name: torch.where(alive[name], value, 0.)
                    for name, value in averaged.items()
                }
            logits = {**logits, **averaged}
        targets, fused = {}, {}
        for name in logits:
            group = tuple(self._teachers(name, list(logits)))
            if not group:
                continue
            if group not in fused:
                members = {member: logits[member] for member in group}
                flags = _flags(members, alive)
                if self.needs_labels:
                    target = LABELLED_FUSIONS[self.fusion](
                        list(members.values()), labels, flags)
                else:
                    target = self.ensemble(members, alive)
                if flags is not None:
                    # One that counts nothing is none to be followed.
                    heard = [
                        flag
                        for flag, weight in zip(flags, self._weights(group))
                        if weight > 0
                    ]
                    target = torch.where(sum(heard) > 0, target, math.nan)
                fused[group] = target
            targets[name] = fused[group]
        return targets

    def extra_repr(self) -> str:
        given = [f'fusion={self.fusion!r}']
        for setting in ('weights', 'leave_one_out', 'members'):
            value = getattr(self, setting)
            if value:
                given.append(f'{setting}={value!r}')
        if self.decay is not None:
            given.append(f'ema={self.decay!r}')
        return ', '.join(given)


def _flags(logits: Dict[str, Tensor],
           alive: Optional[Dict[str, Tensor]]) -> Optional[List[Tensor]]:
    """Which of some branches are not left out."""
    return None if alive is None else [alive[name] for name in logits]
