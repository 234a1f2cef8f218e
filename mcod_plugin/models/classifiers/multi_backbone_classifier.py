import math
import re
from functools import partial
from typing import (Any, Callable, Dict, Iterable, List, Optional, Sequence,
                    Tuple, Union)

import torch
import torch.nn as nn
from mmengine.dist import all_reduce, is_distributed
from mmengine.model import ModuleDict
from mmpretrain.models.classifiers import BaseClassifier
from mmpretrain.structures import DataSample
from torch import Tensor

from mcod_plugin.config.input_size import parse_input_size
from mcod_plugin.errors import ConfigError, check_choice
from mcod_plugin.registry import MODELS
from mcod_plugin.structures import BatchDataSample
from ..utils.branch_images import BranchImages
from ..utils.branch_loss import branch_loss, total_loss
from ..utils.branch_settings import BranchSettings
from ..utils.build_branch import build_branch
from ..utils.frozen import freeze
from ..utils.input_size import guess_input_size
from ..utils.logit_gradients import gradient_ratio, logit_gradients
from ..utils.memory_format import MEMORY_FORMATS, choose_memory_format
from ..utils.pretrained import load_pretrained, take_pretrained
from ..utils.soft_labels import soft_labels
from ..utils.state_faults import state_faults

# Names that mean something else where a branch's name appears.
RESERVED_NAMES = ('ensemble', 'diversity', 'teacher')


@MODELS.register_module()
class MultiBackboneClassifier(BaseClassifier):
    """A cohort: several classifiers that are trained together, each of them
    taught by the ensemble of all.

    The loss of branch :math:`i` with logits :math:`z_i` is

    .. math::
        L_i = CE_i(z_i, y)
            + w(t)\\, T^2\\, KL(softmax(z_t / T)\\, \\|\\, softmax(z_i / T))

    where :math:`CE_i` is the loss of the branch's own head, :math:`z_t` the
    teacher's target and :math:`w(t)` the attribute :attr:`kd_weight`, which
    :class:`DiscontinuousKDHook` writes. While it is 0, targets and second
    term are not computed at all.

    A teacher is a module with ``ensemble(logits)``, the prediction, and a
    call ``teacher(logits)`` that gives the targets by branch; a branch that
    has none is not distilled. It may have

    - ``setup(names, num_classes)``, called once when the cohort is built, to
      check settings and to make parameters;
    - ``needs_labels``, whether it is called as ``teacher(logits, labels)``,
      with the labels as probabilities ``(N, C)``;
    - ``needs_images``, whether it is called with ``images=``, those of each
      branch ``(N, C, H, W)`` by name;
    - ``begin(branches)``, called with the classifiers by name that are
      trained, once the cohort is built and again when its weights are
      initialised, for what begins as they do;
    - ``missing_state(state_dict)``, what to add to weights of the cohort
      before they are loaded, if they lack what the teacher can begin
      without;
    - ``loss(logits, labels)``, losses of its own by name. They are added in
      every step, on- and off-phases alike, so that its parameters are always
      trained;
    - ``per_peer = True``, if it gives logits ``(P, N, C)`` of P peers instead
      of ``(N, C)``;
    - ``takes_alive = True``, if it can leave branches out, see
      :meth:`leave_out_diverged`. All its methods are then called with
      ``alive=``, a dict of boolean scalars by branch, once that was called.
      Where nobody is left to teach a branch, its target is NaN. To any other
      teacher, a branch that is left out has the mean logits of the others.

    A distillation loss is a module that is called once a step for all B
    branches which have a target, as ``distill(logits, targets)``. The logits
    are ``(B, N, C)``; so are the targets, or ``(N, C)`` if all have the same
    tensor. If it has ``per_peer = True``, as its teacher must have then, the
    targets are ``(B, P, N, C)``, or ``(P, N, C)``. With ``needs_labels =
    True`` it is called with ``labels=`` as well, the labels as probabilities
    ``(N, C)``; with ``needs_own_grad = True`` with ``names=``, those of the B
    branches, and ``own_grad=``, the gradients ``(B, N, C)`` of their own
    losses at the logits, or None where no gradient is computed. It may have
    ``setup(names, num_classes, feat_shapes)``, called once when the cohort is
    built. With ``takes_alive = True`` it is called with ``alive=`` as a
    teacher is, which tells of each target whether there is one: booleans of
    the shape of the targets without ``(N, C)``. It gives the losses of the
    branches ``(B, )``; their weight :math:`w(t)` is not its business.

    Args:
        branches (dict[str, dict | nn.Module]): The cohort by name. Each value
            is the config of a classifier as it would stand alone
            (``type='ImageClassifier'`` when left out). The pooling and the
            head's ``in_channels`` may be left out. An ``init_cfg`` may name
            weights to start from, of a branch or of its backbone alone. A
            cohort's checkpoint serves, as in ``dict(type='Pretrained',
            checkpoint='epoch_200.pth', prefix='branches.vgg')``. It must hold
            all weights, and for a branch no others.

            A classifier that is built already, or a built part in the config
            of one, keeps the weights that it has: of a new one, call
            ``init_weights()`` before. A built classifier of which no
            parameter requires a gradient is frozen.

            Besides, the config of a branch may have

            - ``mean`` and ``std``: the values that its images are normalised
              by, one for each channel, on the scale of the cohort's
              ``data_preprocessor`` and in the order of channels that this
              gives. What the preprocessor fills in, such as padding, is a
              colour to every branch: ``pad_value * std + mean`` by the
              cohort's values.
            - ``input_size``: the size of its images in pixels (one side, or
              height and width), to which they are brought if they have
              another one.
            - ``lr_mult`` and ``decay_mult``: factors of the learning rate and
              the weight decay of all its parameters. They are applied by
              :class:`BranchOptimWrapperConstructor`.
            - ``loss_weight``: a factor of all its losses, its own and that of
              the distillation. Optimizers such as Adam, whose steps do not
              depend on the scale of a gradient, are hardly moved by it.
            - ``frozen=True``: it only teaches. It has no loss and stays as it
              is, the statistics of its batch norm included.

        teacher (dict | nn.Module): From logits to targets.
            Defaults to ``dict(type='mcod_plugin.EnsembleTeacher')``.
        distill (dict | nn.Module): From logits and targets to losses.
            Defaults to ``dict(type='mcod_plugin.DiscontinuousKDLoss')``.
        input_size (int | tuple[int, int], optional): Size in pixels (one
            side, or height and width) of the images that the data give. With
            a dummy image of it the shapes are worked out. Defaults to that
            of a network which is made for one size (``img_size``), else to
            32 if a CIFAR-sized network is among the branches, else to 224.
            The runner sets it from the data.
        memory_format (str): The order of the values of feature maps:
            ``'channels_last'``, which most convolutions are faster in,
            ``'contiguous'``, or ``'auto'`` for the first in all branches
            that convolve and whose gradients are right in it, see
            :func:`choose_memory_format`. It changes speed, neither results
            (beyond rounding) nor checkpoints. Defaults to ``'auto'``.
        train_cfg (dict, optional): Training settings. The key ``augments``
            holds batch augmentations such as Mixup. Defaults to None.
        data_preprocessor (dict | nn.Module, optional): The one preprocessor
            of all branches; its ``type`` defaults to
            ``'mcod_plugin.BatchDataPreprocessor'``, its ``num_classes`` to
            that of the branches.
        init_cfg (dict, optional): Initialisation config, as for a branch.
            Defaults to None.

    Attributes:
        branches (ModuleDict): The classifiers by name.
        branch_settings (dict[str, BranchSettings]): The settings of each
            branch; its ``mean``, ``std`` and ``input_size`` are those of the
            images that it sees, also where they are the cohort's.
        branch_images (BranchImages): Makes the images of each branch.
        frozen (list[str]): Names of the branches that only teach.
        teacher (nn.Module): The built teacher.
        distill (nn.Module): The built distillation loss.
        input_size (tuple[int, int]): Height and width of the data's images.
        memory_formats (dict[str, torch.memory_format]): The format of each
            branch.
        in_channels (int): Number of channels of the images.
        num_classes (int): Number of classes of every branch.
        kd_weight (float): Current weight of the distillation term.
        ratio_due (bool): Whether the next step that distils is to give
            ``<branch>.kd_ratio``; it then sets this to False. A hook such as
            :class:`CohortRuntimeInfoHook` sets it to True.
        alive (Tensor): Booleans ``(number of branches, )``: False for those
            that are left out because they have diverged.

    Raises:
        ConfigError: If the preprocessor divides by 0, there is no branch to
            train, a name cannot be used, a branch cannot be built or not be
            had in the memory format, the numbers of classes differ, that of
            the preprocessor included, or the teacher is not for such a cohort
            or loss.
    """

    def __init__(self,
                 branches: Dict[str, Any],
                 teacher: Any = None,
                 distill: Any = None,
                 input_size: Optional[Union[int, Sequence[int]]] = None,
                 memory_format: str = 'auto',
                 train_cfg: Optional[dict] = None,
                 data_preprocessor: Any = None,
                 init_cfg: Optional[dict] = None) -> None:
        if data_preprocessor is None or isinstance(data_preprocessor, dict):
            # It is built by MMEngine, hence the scope. Copied because the
            # config of the caller must stay as it is.
            data_preprocessor = dict(data_preprocessor or {})
            data_preprocessor.setdefault('type',
                                         'mcod_plugin.BatchDataPreprocessor')
            if train_cfg is not None:
                data_preprocessor.setdefault('batch_augments', train_cfg)
        super().__init__(
            init_cfg=init_cfg, data_preprocessor=data_preprocessor)

        _check_names(branches)
        _check_std(self.data_preprocessor)
        if input_size is None:
            input_size = guess_input_size(branches)
        self.input_size = parse_input_size('model.input_size', input_size)
        mean = getattr(self.data_preprocessor, 'mean', None)
        self.in_channels = 3 if mean is None else mean.numel()
        own = BranchSettings.of_cohort(self.input_size, self.data_preprocessor,
                                       self.in_channels)
        self.branch_settings = {}
        built = {}
        for name, cfg in branches.items():
            cfg, settings = own.take(name, cfg, self.in_channels)
            self.branch_settings[name] = settings
            built[name] = build_branch(name, cfg, settings.input_size,
                                       self.in_channels)
        numbers = {name: number for name, (_, number) in built.items()}
        if len(set(numbers.values())) > 1:
            given = ', '.join(f'{name} {n}' for name, n in numbers.items())
            raise ConfigError('model.branches must agree on num_classes; got '
                              f'{given}')
        self.num_classes = next(iter(numbers.values()))
        # It is what labels are turned into one-hot scores by.
        given = getattr(self.data_preprocessor, 'num_classes', None)
        if given is None:
            self.data_preprocessor.num_classes = self.num_classes
        elif given != self.num_classes:
            raise ConfigError(
                f'data_preprocessor.num_classes is {given}, but num_classes '
                f'of the branches is {self.num_classes}')
        self.branches = ModuleDict(
            {name: branch
             for name, (branch, _) in built.items()})
        self.frozen = [
            name for name, settings in self.branch_settings.items()
            if settings.frozen
        ]
        for name in self.frozen:
            freeze(self.branches[name])
        if len(self.frozen) == len(self.branches):
            raise ConfigError('model.branches must have one that is trained; '
                              f'frozen are {", ".join(self.frozen)}')
        check_choice('model.memory_format', memory_format, MEMORY_FORMATS)
        self.memory_formats = {
            name: choose_memory_format(
                f'model.branches.{name}', memory_format, branch,
                (2, self.in_channels, *self.branch_settings[name].input_size))
            for name, branch in self.branches.items()
        }
        self.branch_images = BranchImages(own, self.branch_settings,
                                          self.memory_formats)
        teacher = _build('model.teacher', teacher,
                         'mcod_plugin.EnsembleTeacher')
        distill = _build('model.distill', distill,
                         'mcod_plugin.DiscontinuousKDLoss')
        _check_pair(teacher, distill)
        if hasattr(teacher, 'setup'):
            teacher.setup(list(self.branches), self.num_classes)
        if hasattr(distill, 'setup'):
            distill.setup(list(self.branches), self.num_classes, None)
        self.teacher = teacher
        self.distill = distill
        self._begin_teacher()
        self.kd_weight = 0.0
        self.ratio_due = False
        self._leaves_out = self._scaled = False
        # It belongs to a run, not to the weights of the branches.
        self.register_buffer(
            'alive',
            torch.ones(len(self.branches), dtype=torch.bool),
            persistent=False)
        self._register_load_state_dict_pre_hook(
            _check_state_dict, with_module=True)

    def init_weights(self) -> None:
        """Initialise the weights, to the same values in every memory
        format.

        Raises:
            ConfigError: If a checkpoint to start from cannot be opened or
                does not fit.
        """
        for branch in self.branches.values():
            branch.to(memory_format=torch.contiguous_format)
        pretrained = take_pretrained(self)
        super().init_weights()
        for name, cfg in pretrained.items():
            setting = f'model.{name}.init_cfg' if name else 'model.init_cfg'
            load_pretrained(setting, cfg, self.get_submodule(name))
        for name, branch in self.branches.items():
            branch.to(memory_format=self.memory_formats[name])
        self._begin_teacher()

    def _begin_teacher(self) -> None:
        """Show the teacher the branches that are trained."""
        if hasattr(self.teacher, 'begin'):
            self.teacher.begin({
                name: branch
                for name, branch in self.branches.items()
                if name not in self.frozen
            })

    def train(self, mode: bool = True) -> 'MultiBackboneClassifier':
        """Set the mode of all branches but the frozen ones, which stay in
        eval mode.

        Args:
            mode (bool): Whether it is the training mode. Defaults to True.

        Returns:
            MultiBackboneClassifier: The cohort itself.
        """
        super().train(mode)
        for name in self.frozen:
            self.branches[name].eval()
        return self

    def forward(self,
                inputs: Tensor,
                data_samples: Optional[List[DataSample]] = None,
                mode: str = 'tensor') -> Any:
        """The entry for training and test.

        Args:
            inputs (Tensor): Images ``(N, C, H, W)``.
            data_samples (BatchDataSample | list[DataSample], optional):
                Annotations of the images; required in mode ``'loss'``.
            mode (str): ``'tensor'``, ``'loss'`` or ``'predict'``.
                Defaults to ``'tensor'``.

        Returns:
            Tensor | dict | BatchDataSample | list[DataSample]: The ensemble's
            logits ``(N, num_classes)``, the losses by name, or the
            predictions.
        """
        if mode == 'tensor':
            return self._ensemble(self.branch_logits(inputs))
        if mode == 'loss':
            return self.loss(inputs, data_samples)
        if mode == 'predict':
            return self.predict(inputs, data_samples)
        raise RuntimeError(f'Invalid mode "{mode}".')

    def branch_logits(self, inputs: Tensor) -> Dict[str, Tensor]:
        """Logits of all branches.

        Args:
            inputs (Tensor): Images ``(N, C, H, W)``.

        Returns:
            dict[str, Tensor]: Logits ``(N, num_classes)`` by branch, in at
            least single precision also under AMP.
        """
        images = self.branch_images(inputs)
        if any(branch._compiled_call_impl
               for branch in self.branches.values()):
            # To CUDA graphs each branch is a program of its own, and without
            # a backward to come the next one would overwrite its logits.
            torch.compiler.cudagraph_mark_step_begin()
        logits = {}
        for name, branch in self.branches.items():
            grad = torch.is_grad_enabled() and name not in self.frozen
            with torch.set_grad_enabled(grad):
                logits[name] = branch(images[name])
        return {
            name: score.float() if score.dtype in (
                torch.float16, torch.bfloat16) else score
            for name, score in logits.items()
        }

    def extract_feat(self,
                     inputs: Tensor,
                     stage: str = 'neck') -> Dict[str, Tuple[Tensor, ...]]:
        """Features of all branches.

        Args:
            inputs (Tensor): Images ``(N, C, H, W)``.
            stage (str): See ``ImageClassifier.extract_feat``.
                Defaults to ``'neck'``.

        Returns:
            dict[str, tuple[Tensor]]: What each branch's own method gives. A
            tool that wants one tuple works on ``model.branches[name]``.
        """
        images = self.branch_images(inputs)
        return {
            name: branch.extract_feat(images[name], stage)
            for name, branch in self.branches.items()
        }

    def leave_out_diverged(self, scaled: bool = False) -> None:
        """From now on, leave out each branch that diverges.

        A branch has diverged when its logits or its loss are not finite (a
        class may be ruled out by -inf). From the same step on it is neither
        in the targets nor in the ensemble, adds nothing to the loss and has
        no gradients; on all ranks alike. All of that happens on the device:
        the host need not look.

        Gradients that are not finite though the loss is are set to 0 as well,
        because clipping by a norm over all branches would hand them on.

        Args:
            scaled (bool): Whether the loss is scaled for half precision. Then
                gradients of other branches stay as they are: the scaler has
                to see where its factor is too large. Defaults to False.
        """
        self._scaled = scaled
        if self._leaves_out:
            return
        self._leaves_out = True
        for index, branch in enumerate(self.branches.values()):
            for parameter in branch.parameters():
                if parameter.requires_grad:
                    parameter.register_hook(partial(self._own_gradient, index))

    def leave_out(self, names: Iterable[str]) -> None:
        """Leave out branches that have diverged, in training as in
        predictions.

        Args:
            names (Iterable[str]): Their names; what is no branch is passed
                over.
        """
        names = set(names)
        self.leave_out_diverged(self._scaled)
        for index, name in enumerate(self.branches):
            if name in names:
                self.alive[index] = False

    def _own_gradient(self, index: int, gradient: Tensor) -> Tensor:
        """The gradient of a branch; 0 if the branch is left out."""
        if self._scaled:
            return torch.where(self.alive[index], gradient, 0.)
        # That of a branch which is left out is 0 or 0 times something.
        return gradient.nan_to_num(0., 0., 0.)

    def _note_alive(self, logits: Dict[str, Tensor],
                    losses: Dict[str, Tensor]) -> Dict[str, Tensor]:
        """Find the branches that diverge in this step.

        Returns:
            dict[str, Tensor]: Whether it takes part, for each branch.
        """
        # NaN or inf if a logit is, -inf if all of an image's are.
        sums = torch.stack([value.detach() for value in logits.values()])
        finite = sums.logsumexp(-1).isfinite().all(1)
        totals = [
            sum((value.detach().sum() for key, value in losses.items()
                 if key.startswith(f'{name}.') and 'loss' in key),
                score.new_zeros(())) for name, score in logits.items()
        ]
        alive = self.alive & finite & torch.stack(totals).isfinite()
        if is_distributed():
            # The ranks see other images.
            shared = alive.to(torch.uint8)
            all_reduce(shared, 'min')
            alive = shared.bool()
        # In place, where a CUDA graph and the hooks of gradients look for it;
        # the copy is what this step's graph keeps.
        self.alive.copy_(alive)
        return dict(zip(logits, alive.unbind()))

    def _call_teacher(self, call: Callable, logits: Dict[str, Tensor],
                      alive: Optional[Dict[str, Tensor]], *args: Any,
                      **kwargs: Any) -> Any:
        """Call the teacher, without the branches that are left out."""
        if alive is None:
            return call(logits, *args, **kwargs)
        present = {
            name: torch.where(alive[name], value, 0.)
            for name, value in logits.items()
        }
        if getattr(self.teacher, 'takes_alive', False):
            return call(present, *args, alive=alive, **kwargs)
        number = sum(alive.values())
        others = sum(value.detach() for value in present.values()) / number
        return call(
            {
                name: torch.where(alive[name], value, others)
                for name, value in logits.items()
            }, *args, **kwargs)

    def _ensemble(self, logits: Dict[str, Tensor]) -> Tensor:
        """The prediction of the ensemble, without the branches that are
        left out."""
        alive = None
        if self._leaves_out:
            alive = dict(zip(logits, self.alive.unbind()))
        return self._call_teacher(self.teacher.ensemble, logits, alive)

    def loss(self, inputs: Tensor,
             data_samples: Sequence[DataSample]) -> Dict[str, Tensor]:
        """Losses of all branches.

        Args:
            inputs (Tensor): Images ``(N, C, H, W)``.
            data_samples (BatchDataSample | list[DataSample]): Annotations of
                the images.

        Returns:
            dict[str, Tensor]: ``<branch>.loss_ce`` for each branch that is
            trained, in on-phases ``<branch>.loss_kd`` as well, both weighted,
            ``teacher.<key>`` if the teacher has losses of its own, and
            ``kd_weight``. If :attr:`ratio_due`, ``<branch>.kd_ratio``: how
            hard the distillation pulls at the branch's logits, against its
            own loss. It is the ratio of the norms of both gradients there, as
            they are weighted.
        """
        logits = self.branch_logits(inputs)
        losses, own = {}, {}
        for name, branch in self.branches.items():
            if name in self.frozen:
                continue
            own[name] = branch_loss(branch, logits[name], data_samples)
            for key, value in own[name].items():
                if 'loss' in key:
                    value = self._weighted(name, value)
                key = 'loss_ce' if key == 'loss' else key
                losses[f'{name}.{key}'] = value
        alive = None
        if self._leaves_out:
            alive = self._note_alive(logits, losses)
            losses = _without_diverged(losses, alive)
        if hasattr(self.teacher, 'loss'):
            labels = soft_labels(data_samples, next(iter(logits.values())))
            for key, value in self._call_teacher(self.teacher.loss, logits,
                                                 alive, labels).items():
                losses[f'teacher.{key}'] = value
        if self.kd_weight > 0:
            losses.update(
                self._kd_losses(inputs, logits, data_samples, own, alive))
        losses['kd_weight'] = torch.tensor(float(self.kd_weight))
        return losses

    def parse_losses(
            self, losses: Dict[str,
                               Tensor]) -> Tuple[Tensor, Dict[str, Tensor]]:
        """Sum the losses; see MMEngine.

        Returns:
            tuple[Tensor, dict[str, Tensor]]: The sum, and what is logged, in
            which the losses of a branch that is left out are NaN.
        """
        total, logged = super().parse_losses(losses)
        if self._leaves_out:
            for index, name in enumerate(self.branches):
                for key, value in logged.items():
                    if key.startswith(f'{name}.') and 'loss' in key:
                        logged[key] = torch.where(self.alive[index],
                                                  value.detach(), math.nan)
        return total, logged

    def _kd_losses(
            self,
            inputs: Tensor,
            logits: Dict[str, Tensor],
            data_samples: Sequence[DataSample],
            own: Dict[str, Dict[str, Any]],
            alive: Optional[Dict[str, Tensor]] = None) -> Dict[str, Tensor]:
        """``<branch>.loss_kd`` of each branch that learns from a target, and
        ``<branch>.kd_ratio`` if it is due."""
        needs = [
            getattr(part, 'needs_labels', False)
            for part in (self.teacher, self.distill)
        ]
        labels = soft_labels(data_samples, next(iter(
            logits.values()))) if any(needs) else None
        images = {}
        if getattr(self.teacher, 'needs_images', False):
            images = dict(images=self.branch_images(inputs))
        targets = self._call_teacher(self.teacher, logits, alive,
                                     *([labels] if needs[0] else []),
                                     **images)
        names = [
            name for name in logits
            if name in targets and name not in self.frozen
        ]
        if not names:
            return {}
        target = targets[names[0]]
        if any(targets[name] is not target for name in names):
            target = torch.stack([targets[name] for name in names])
        # All branches at once: what they share is computed once.
        students = torch.stack([logits[name] for name in names])
        balanced = getattr(self.distill, 'needs_own_grad', False)
        ratio_due = self.ratio_due and students.requires_grad
        own_grad = None
        if students.requires_grad and (balanced or ratio_due):
            own_grad = logit_gradients(
                [total_loss(own[name]) for name in names],
                [logits[name] for name in names])
        given, learning, more = students, None, {}
        if alive is not None:
            given, target, learning, more = self._among_the_living(
                students, target, [alive[name] for name in names])
        if needs[1]:
            more['labels'] = labels
        if balanced:
            more.update(names=names, own_grad=own_grad)
        distances = self.distill(given, target, **more)
        got = tuple(distances.shape) if isinstance(
            distances, Tensor) else type(distances).__name__
        if got != (len(names), ):
            raise ConfigError(
                f'model.distill.type {type(self.distill).__name__} must give '
                f'a tensor of one loss for each branch, ({len(names)},); got '
                f'{got}')
        if learning is not None:
            distances = self._without_overflow(names, learning, distances)
        losses = {
            f'{name}.loss_kd': self._weighted(name, value)
            for name, value in zip(names, self.kd_weight * distances)
        }
        if ratio_due:
            self.ratio_due = False
            # A branch's loss_weight is in both.
            kd_grad, = logit_gradients([distances.sum()], [students])
            ratios = self.kd_weight * gradient_ratio(kd_grad, own_grad)
            losses.update({
                f'{name}.kd_ratio': ratio
                for name, ratio in zip(names, ratios)
            })
        return losses

    def _among_the_living(self, students: Tensor, target: Tensor,
                          alive: Sequence[Tensor]) -> tuple:
        """Arguments of the distillation loss without numbers of branches that
        are left out: 0 times NaN would be their gradient.

        Returns:
            tuple[Tensor, Tensor, Tensor, dict]: Students, targets, which
            branches have somebody to learn from, as booleans ``(B, )``, and
            more arguments.
        """
        learning = torch.stack(list(alive))
        students = torch.where(learning[:, None, None], students, 0.)
        taught = ~target.isnan().flatten(-2).any(-1)
        target = torch.where(taught[..., None, None], target, 0.)
        more = {}
        if getattr(self.distill, 'takes_alive', False):
            more = dict(alive=taught)
        if getattr(self.distill, 'per_peer', False):
            taught = taught.any(-1)
        return students, target, learning & taught, more

    def _without_overflow(self, names: Sequence[str], learning: Tensor,
                          distances: Tensor) -> Tensor:
        """The distillation losses of those that learn, 0 for the others. A
        branch is left out if its loss is not finite."""
        finite = distances.detach().isfinite()
        going_on = dict(zip(names, (finite | ~learning).unbind()))
        for index, name in enumerate(self.branches):
            if name in going_on:
                self.alive[index].logical_and_(going_on[name])
        return torch.where(learning & finite, distances, 0.)

    def _weighted(self, name: str, loss: Tensor) -> Tensor:
        """A loss of a branch with the branch's ``loss_weight``."""
        weight = self.branch_settings[name].loss_weight
        return loss if weight == 1 else weight * loss

    def predict(
        self,
        inputs: Tensor,
        data_samples: Optional[Sequence[Optional[DataSample]]] = None
    ) -> Sequence[DataSample]:
        """Predictions of the ensemble and of every branch.

        Args:
            inputs (Tensor): Images ``(N, C, H, W)``.
            data_samples (BatchDataSample | list[DataSample | None],
                optional): Samples to fill; new ones when left out.

        Returns:
            BatchDataSample | list[DataSample]: With ``pred_score`` and
            ``pred_label`` of the ensemble and ``pred_score_<branch>`` of each
            branch; NaN for one that is left out. Scores are probabilities
            ``(num_classes, )``. A new batch if one was given, else a list.
        """
        logits = {
            name: score.detach()
            for name, score in self.branch_logits(inputs).items()
        }
        ensemble = self._ensemble(logits).softmax(1)
        labels = ensemble.argmax(1)
        scores = {
            f'pred_score_{name}': score.softmax(1)
            for name, score in logits.items()
        }
        if self._leaves_out:
            # They predict nothing, though their numbers may look like it.
            scores = {
                key: torch.where(alive, score, math.nan)
                for (key, score), alive in zip(scores.items(), self.alive)
            }
        if isinstance(data_samples,
                      BatchDataSample) and not data_samples.touched:
            fields = dict(
                data_samples.fields,
                pred_score=ensemble,
                pred_label=labels,
                **scores)
            return BatchDataSample(**fields)
        if data_samples is None:
            data_samples = [None] * len(labels)
        data_samples = [
            DataSample() if sample is None else sample
            for sample in data_samples
        ]
        for index, sample in enumerate(data_samples):
            # A view would be pickled together with the whole batch.
            sample.set_pred_score(ensemble[index].clone()).set_pred_label(
                labels[index:index + 1].clone())
            for key, score in scores.items():
                sample.set_field(score[index].clone(), key)
        return data_samples


def _check_names(branches: Any) -> None:
    """Raise unless the branches have names that can be used as attributes, in
    checkpoint keys, log keys and file names."""
    if not isinstance(branches, dict) or not branches:
        raise ConfigError('model.branches must be a dict that names at least '
                          f'one classifier; got {branches!r}')
    for name in branches:
        if not isinstance(name, str) or not re.fullmatch(r'[\w-]+', name):
            raise ConfigError(
                'a name in model.branches must consist of letters, digits, _ '
                f'and -; got {name!r}')
        if name in RESERVED_NAMES or hasattr(ModuleDict(), name):
            raise ConfigError(f'the name {name!r} in model.branches is taken '
                              'by something else; choose another')
        if 'loss' in name:
            raise ConfigError(
                f'the name {name!r} in model.branches must not contain '
                "'loss': whatever has it in its log key is added to the loss")


def _check_std(preprocessor: nn.Module) -> None:
    """Raise unless the images can be divided by the standard deviation."""
    for key, lowest in (('mean', -math.inf), ('std', 0)):
        value = getattr(preprocessor, key, None)
        if not isinstance(value, Tensor):
            continue
        value = value.flatten().tolist()
        if not all(lowest < number < math.inf for number in value):
            bound = ' greater than 0' if key == 'std' else ''
            raise ConfigError(f'data_preprocessor.{key} must be finite '
                              f'numbers{bound}; got {value!r}')


def _without_diverged(losses: Dict[str, Any],
                      alive: Dict[str, Tensor]) -> Dict[str, Any]:
    """Losses with 0 for the branches that are left out."""
    return {
        key: torch.where(alive[key.partition('.')[0]], value, 0.)
        if 'loss' in key else value
        for key, value in losses.items()
    }


def _build(setting: str, part: Any, default: str) -> nn.Module:
    """Build a part of the cohort, a default one if it is left out."""
    if isinstance(part, nn.Module):
        return part
    if not isinstance(part, (dict, type(None))):
        raise ConfigError(f'{setting} must be the config of a part (a dict); '
                          f'got {part!r}')
    return MODELS.build(part or dict(type=default))


def _check_pair(teacher: nn.Module, distill: nn.Module) -> None:
    """Raise unless the loss is for the targets that the teacher gives.

    Their shapes do not tell: targets of P branches look like those of P
    peers.
    """
    gives, takes = (
        getattr(part, 'per_peer', False) for part in (teacher, distill))
    if gives == takes:
        return
    given = f'model.teacher.type {type(teacher).__name__}'
    taken = f'model.distill.type {type(distill).__name__}'
    if takes:
        raise ConfigError(f'{taken} needs a teacher with per_peer, such as '
                          f'mcod_plugin.PeerTeacher; got {given}')
    raise ConfigError(f'{given} needs a loss with per_peer, such as '
                      f'mcod_plugin.MutualKDLoss; got {taken}')


def _check_state_dict(model: MultiBackboneClassifier,
                      state_dict: Dict[str, Tensor], prefix: str,
                      *args) -> None:
    """Raise unless a state dict is exactly this cohort's.

    MMEngine only logs what does not fit; a branch that was renamed would
    start from chance.
    """
    given = {
        key[len(prefix):]: value
        for key, value in state_dict.items() if key.startswith(prefix)
    }
    if hasattr(model.teacher, 'missing_state'):
        for key, value in model.teacher.missing_state(given).items():
            given[key] = state_dict[f'{prefix}{key}'] = value
    faults = state_faults(model.state_dict(), given)
    if faults:
        raise ConfigError('the checkpoint is not of this cohort '
                          f'({", ".join(model.branches)}): it '
                          + '; it '.join(faults))
