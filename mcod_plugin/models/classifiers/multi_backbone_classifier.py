import math
import re
from typing import (Any, Callable, Dict, Iterable, List, Optional, Sequence,
                    Tuple, Union)

import torch
import torch.nn as nn
from mmengine.model import ModuleDict
from mmpretrain.models.classifiers import BaseClassifier, ImageClassifier
from mmpretrain.structures import DataSample
from torch import Tensor

from mcod_plugin.config.input_size import parse_input_size
from mcod_plugin.errors import ConfigError, check_choice, check_number
from mcod_plugin.registry import MODELS
from mcod_plugin.structures import BatchDataSample
from ..heads import BaseTeacher
from ..losses import BaseKDLoss
from ..utils.branch_images import BranchImages
from ..utils.branch_loss import branch_loss, total_loss
from ..utils.branch_settings import BranchSettings
from ..utils.build_branch import build_branch
from ..utils.build_part import adapt, build_part
from ..utils.divergence_mask import DivergenceMask, without_diverged
from ..utils.frozen import freeze
from ..utils.input_size import guess_input_size
from ..utils.logit_gradients import gradient_ratio, logit_gradients
from ..utils.memory_format import MEMORY_FORMATS, choose_memory_format
from ..utils.pretrained import load_pretrained, take_pretrained
from ..utils.rehearsal import (batch_size, check_ensemble, check_targets, told,
                               undisturbed)
from ..utils.soft_labels import soft_labels
from ..utils.state_faults import state_faults

# What a cohort has that does not say anything else.
TEACHER = dict(type='mcod_plugin.EnsembleTeacher')
DISTILL = dict(type='mcod_plugin.DiscontinuousKDLoss')
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
    term are not computed at all. Of several branches, those are distilled
    whose weight in :attr:`kd_weights` is above 0.

    The teacher is a :class:`BaseTeacher`, the distillation loss a
    :class:`BaseKDLoss`; there it says how they are called. A module with the
    same calls is adapted. The loss is called once a step for all branches
    that are distilled and have a target.

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
        distill (dict | nn.Module, optional): From logits and targets to
            losses. None is a cohort that never distils, whatever its weights
            are; its teacher makes the prediction alone, and is not asked for
            losses of its own.
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
        loss_weight (float): The ``loss_weight`` of the branches that have
            none of their own. Defaults to 1.0.
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
        distill (nn.Module | None): The built distillation loss.
        input_size (tuple[int, int]): Height and width of the data's images.
        memory_formats (dict[str, torch.memory_format]): The format of each
            branch.
        in_channels (int): Number of channels of the images.
        num_classes (int): Number of classes of every branch.
        kd_weights (dict[str, float]): Current weight of the distillation term
            of each branch that is trained.
        ratio_due (bool): Whether the next step that distils is to give
            ``<branch>.kd_ratio``; it then sets this to False. A hook such as
            :class:`CohortRuntimeInfoHook` sets it to True.
        divergence (DivergenceMask): Leaves out what diverges.

    Raises:
        ConfigError: If the preprocessor divides by 0, there is no branch to
            train, a name cannot be used, a branch cannot be built or not be
            had in the memory format, the numbers of classes differ, that of
            the preprocessor included, or the teacher is not for such a cohort
            or loss.
    """

    def __init__(self,
                 branches: Dict[str, Any],
                 teacher: Any = TEACHER,
                 distill: Any = DISTILL,
                 input_size: Optional[Union[int, Sequence[int]]] = None,
                 memory_format: str = 'auto',
                 train_cfg: Optional[dict] = None,
                 data_preprocessor: Any = None,
                 init_cfg: Optional[dict] = None,
                 loss_weight: float = 1.0) -> None:
        super().__init__(
            init_cfg=init_cfg,
            data_preprocessor=_preprocessor(data_preprocessor, train_cfg))
        _check_names(branches)
        _check_std(self.data_preprocessor)
        check_number('model.loss_weight', loss_weight, 0, exclusive=True)
        if input_size is None:
            input_size = guess_input_size(branches)
        self.input_size = parse_input_size('model.input_size', input_size)
        mean = getattr(self.data_preprocessor, 'mean', None)
        self.in_channels = 3 if mean is None else mean.numel()
        own = BranchSettings.of_cohort(self.input_size, self.data_preprocessor,
                                       self.in_channels, loss_weight)
        self._build_branches(branches, own)
        self._freeze_branches()
        self._choose_memory_formats(memory_format)
        self.branch_images = BranchImages(own, self.branch_settings,
                                          self.memory_formats)
        self._build_distillation(teacher, distill)
        self.kd_weights = {
            name: 0.
            for name in self.branches if name not in self.frozen
        }
        self.ratio_due = False
        self.divergence = DivergenceMask(self.branches)
        self._register_load_state_dict_pre_hook(
            _check_state_dict, with_module=True)

    def _build_branches(self, branches: Dict[str, Any],
                        own: BranchSettings) -> None:
        """Build the branches, which must agree on the number of classes."""
        self.branch_settings, built, numbers = {}, {}, {}
        for name, cfg in branches.items():
            cfg, settings = own.take(name, cfg, self.in_channels)
            self.branch_settings[name] = settings
            built[name], numbers[name] = build_branch(name, cfg,
                                                      settings.input_size,
                                                      self.in_channels)
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
        self.branches = ModuleDict(built)

    def _freeze_branches(self) -> None:
        """Take the branches that only teach out of training."""
        self.frozen = [
            name for name, settings in self.branch_settings.items()
            if settings.frozen
        ]
        for name in self.frozen:
            freeze(self.branches[name])
        if len(self.frozen) == len(self.branches):
            raise ConfigError('model.branches must have one that is trained; '
                              f'frozen are {", ".join(self.frozen)}')

    def _choose_memory_formats(self, memory_format: str) -> None:
        check_choice('model.memory_format', memory_format, MEMORY_FORMATS)
        self.memory_formats = {
            name: choose_memory_format(
                f'model.branches.{name}', memory_format, branch,
                (2, self.in_channels, *self.branch_settings[name].input_size))
            for name, branch in self.branches.items()
        }

    def _build_distillation(self, teacher: Any, distill: Any) -> None:
        """Build teacher and distillation loss, and tell them the cohort."""
        teacher = build_part('model.teacher', teacher or TEACHER, BaseTeacher)
        if distill is not None:
            distill = build_part('model.distill', distill or DISTILL,
                                 BaseKDLoss)
            _check_pair(teacher, distill)
        self.teacher = teacher
        self.distill = distill
        self._check_features()
        names = list(self.branches)
        teacher.setup(names, self.num_classes)
        if distill is not None:
            shapes = self._feature_shapes() if distill.needs_feats else None
            distill.setup(names, self.num_classes, shapes)
        self._begin_teacher()

    def __setattr__(self, name: str, value: Any) -> None:
        # Also one that is exchanged later on.
        if name == 'teacher':
            value = adapt(value, BaseTeacher)
        elif name == 'distill' and value is not None:
            value = adapt(value, BaseKDLoss)
        super().__setattr__(name, value)

    @property
    def kd_weight(self) -> float:
        """float: Current weight of the distillation term, the greatest of
        :attr:`kd_weights`; written, it is that of all of them."""
        return max(self.kd_weights.values())

    @kd_weight.setter
    def kd_weight(self, weight: float) -> None:
        self.kd_weights = dict.fromkeys(self.kd_weights, weight)

    @property
    def alive(self) -> Tensor:
        """Tensor: Booleans ``(number of branches, )``: False for those that
        are left out because they have diverged."""
        return self.divergence.alive

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
            return self._ask(self.teacher.ensemble,
                             self.branch_logits(inputs),
                             self.divergence.flags())
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
        return self._branch_logits(inputs)

    def _branch_logits(
            self,
            inputs: Tensor,
            feats: Optional[Dict[str, tuple]] = None) -> Dict[str, Tensor]:
        """Logits of all branches; their backbones' features are put into
        ``feats`` on the way, unless it is None."""
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
                if feats is None:
                    logits[name] = branch(images[name])
                else:
                    feats[name], logits[name] = _in_two_steps(
                        branch, images[name])
        return {
            name: score.float() if score.dtype in (
                torch.float16, torch.bfloat16) else score
            for name, score in logits.items()
        }

    def _needs_feats(self, weights: Dict[str, float]) -> bool:
        """Whether teacher or loss are given features in this step."""
        return any(weights.values()) and (
            self.teacher.needs_feats or self.distill.needs_feats)

    def _check_features(self) -> None:
        """Raise unless the branches have the features that are asked for."""
        if self.distill is None:
            return
        for key, part in dict(
                teacher=self.teacher, distill=self.distill).items():
            for name, branch in self.branches.items():
                if part.needs_feats and not isinstance(branch,
                                                       ImageClassifier):
                    raise ConfigError(
                        f'model.{key}.type {type(part).__name__} needs '
                        'features, so each branch must be an ImageClassifier '
                        f'with a backbone; got {name}, a '
                        f'{type(branch).__name__}')

    @torch.no_grad()
    def _feature_shapes(self) -> Dict[str, tuple]:
        """By branch the shapes of its features for one image."""
        shapes = {}
        for name, branch in self.branches.items():
            size = self.branch_settings[name].input_size
            training = branch.training
            branch.eval()
            feats, _ = _in_two_steps(branch,
                                     torch.zeros(2, self.in_channels, *size))
            branch.train(training)
            shapes[name] = tuple(tuple(value.shape[1:]) for value in feats)
        return shapes

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
        self.divergence.activate(self.branches, scaled)

    def leave_out(self, names: Iterable[str]) -> None:
        """Leave out branches that have diverged, in training as in
        predictions.

        Args:
            names (Iterable[str]): Their names; what is no branch is passed
                over.
        """
        self.divergence.activate(self.branches, scaled=None)
        self.divergence.leave_out(names)

    def _ask(self, call: Callable, logits: Dict[str, Tensor],
             alive: Optional[Dict[str, Tensor]], *args: Any,
             **kwargs: Any) -> Any:
        """Call the teacher, without the branches that are left out."""
        return self.divergence.call_teacher(self.teacher, call, logits, alive,
                                            *args, **kwargs)

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
        weights = self._weights_in_effect()
        feats = {} if self._needs_feats(weights) else None
        logits = self._branch_logits(inputs, feats)
        own = {
            name: branch_loss(self.branches[name], logits[name], data_samples)
            for name in self.kd_weights
        }
        losses = self._own_losses(own)
        alive = self.divergence.note(logits, losses)
        losses = without_diverged(losses, alive)
        labels = None
        if self._needs_labels(weights):
            labels = soft_labels(data_samples, next(iter(logits.values())))
        if self.distill is not None and self.teacher.loss is not None:
            for key, value in self._ask(self.teacher.loss, logits, alive,
                                        labels).items():
                losses[f'teacher.{key}'] = value
        if any(weights.values()):
            given = dict(labels=labels, feats=feats)
            targets = self._targets(inputs, logits, alive, given)
            losses.update(
                self._kd_losses(weights, logits, targets, own, alive, given))
        self._reach_all_parameters(losses)
        losses.update(_logged_weights(weights))
        return losses

    def check_distillation(self) -> None:
        """Have teacher and loss do once what they do in a step that distils.

        The first such step may be late in a run. They are called in eval mode
        on random images, and the cohort is as before afterwards.

        Raises:
            ConfigError: If one of them fails, or gives what is not of the
                type or the shape that it should be.
        """
        if self.distill is None:
            return
        with undisturbed(self):
            self._rehearse()

    def _rehearse(self) -> None:
        like = next(self.parameters())
        number = batch_size(self.num_classes, len(self.branches),
                            len(self.branches) - 1)
        shape = (number, self.in_channels, *self.input_size)
        inputs = torch.rand(shape).to(like)
        samples = BatchDataSample(
            gt_label=torch.arange(number, device=like.device) %
            self.num_classes)
        weights = dict.fromkeys(self.kd_weights, 1.)
        feats = {} if self._needs_feats(weights) else None
        with torch.no_grad():
            logits = self._branch_logits(inputs, feats)
        for name in self.kd_weights:
            logits[name].requires_grad_()
        own = {
            name: branch_loss(self.branches[name], logits[name], samples)
            for name in self.kd_weights
        }
        labels = soft_labels(samples, next(iter(logits.values())))
        given = dict(labels=labels, feats=feats)
        with told(f'model.teacher.type {type(self.teacher).__name__}'):
            check_ensemble(self.teacher,
                           self._ask(self.teacher.ensemble, logits, None),
                           labels.shape)
            if self.teacher.loss is not None:
                self.parse_losses(
                    self._ask(self.teacher.loss, logits, None, labels))
            targets = self._targets(inputs, logits, None, given)
        with told(f'model.distill.type {type(self.distill).__name__}'):
            self._kd_losses(weights, logits, targets, own, None, given)

    def _weights_in_effect(self) -> Dict[str, float]:
        """The weight of the distillation of each branch in this step."""
        if self.distill is None:
            return dict.fromkeys(self.kd_weights, 0.)
        return {
            name: max(float(weight), 0.)
            for name, weight in self.kd_weights.items()
        }

    def _own_losses(self, own: Dict[str, Dict[str, Any]]) -> Dict[str, Any]:
        """The weighted losses of the branches' own heads."""
        losses = {}
        for name, values in own.items():
            for key, value in values.items():
                if 'loss' in key:
                    value = self._weighted(name, value)
                key = 'loss_ce' if key == 'loss' else key
                losses[f'{name}.{key}'] = value
        return losses

    def _needs_labels(self, weights: Dict[str, float]) -> bool:
        """Whether teacher or loss are given labels in this step."""
        if self.distill is None:
            return False
        return self.teacher.loss is not None or any(weights.values()) and (
            self.teacher.needs_labels or self.distill.needs_labels)

    def _targets(self, inputs: Tensor, logits: Dict[str, Tensor],
                 alive: Optional[Dict[str, Tensor]],
                 given: Dict[str, Any]) -> Dict[str, Tensor]:
        """What the teacher gives, by branch."""
        more = {}
        if self.teacher.needs_labels:
            more['labels'] = given['labels']
        if self.teacher.needs_feats:
            more['feats'] = given['feats']
        if self.teacher.needs_images:
            more['images'] = self.branch_images(inputs)
        targets = self._ask(self.teacher, logits, alive, **more)
        check_targets(self.teacher, targets, logits)
        return targets

    def _kd_losses(self, weights: Dict[str, float], logits: Dict[str, Tensor],
                   targets: Dict[str, Tensor], own: Dict[str, Dict[str, Any]],
                   alive: Optional[Dict[str, Tensor]],
                   given: Dict[str, Any]) -> Dict[str, Tensor]:
        """``<branch>.loss_kd`` of each branch that learns from a target, and
        ``<branch>.kd_ratio`` if it is due."""
        distill = self.distill
        names = [
            name for name in logits
            if name in targets and weights.get(name, 0.) > 0
        ]
        if not names:
            return {}
        target = targets[names[0]]
        if any(targets[name] is not target for name in names):
            target = torch.stack([targets[name] for name in names])
        # All branches at once: what they share is computed once.
        students = torch.stack([logits[name] for name in names])
        ratio_due = self.ratio_due and students.requires_grad
        own_grad = None
        if students.requires_grad and (distill.needs_own_grad or ratio_due):
            own_grad = logit_gradients(
                [total_loss(own[name]) for name in names],
                [logits[name] for name in names])
        more = {}
        if distill.needs_labels:
            more['labels'] = given['labels']
        if distill.needs_feats:
            more.update(names=names, feats=given['feats'])
        if distill.needs_own_grad:
            more.update(names=names, own_grad=own_grad)
        distances, learning = self.divergence.call_loss(
            distill, students, target,
            alive and [alive[name] for name in names], **more)
        _check_distances(distill, distances, len(names))
        distances = self.divergence.without_overflow(names, learning,
                                                     distances)
        losses = {
            f'{name}.loss_kd': self._weighted(name, weights[name] * distance)
            for name, distance in zip(names, distances)
        }
        if ratio_due:
            self.ratio_due = False
            # A branch's loss_weight is in both.
            kd_grad, = logit_gradients([distances.sum()], [students])
            ratios = gradient_ratio(kd_grad, own_grad)
            losses.update({
                f'{name}.kd_ratio': weights[name] * ratio
                for name, ratio in zip(names, ratios)
            })
        return losses

    def _reach_all_parameters(self, losses: Dict[str, Any]) -> None:
        """Give parameters of the distillation the gradient 0 where no loss
        reaches them, as in an off-phase: DistributedDataParallel would wait
        for it."""
        part = self.teacher if self.distill is None else self.distill
        # The sum of no elements is 0 even of a parameter that is not finite.
        zeros = [
            value.flatten()[:0].sum() for value in part.parameters()
            if value.requires_grad
        ]
        if zeros:
            key = next(key for key in losses if 'loss' in key)
            losses[key] = losses[key] + sum(zeros)

    def parse_losses(
            self, losses: Dict[str,
                               Tensor]) -> Tuple[Tensor, Dict[str, Tensor]]:
        """Sum the losses; see MMEngine.

        Returns:
            tuple[Tensor, dict[str, Tensor]]: The sum, and what is logged, in
            which the losses of a branch that is left out are NaN.
        """
        total, logged = super().parse_losses(losses)
        return total, self.divergence.mark(logged)

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
        alive = self.divergence.flags()
        ensemble = self._ask(self.teacher.ensemble, logits, alive).softmax(1)
        labels = ensemble.argmax(1)
        scores = {
            f'pred_score_{name}': score.softmax(1)
            for name, score in logits.items()
        }
        if alive is not None:
            # They predict nothing, though their numbers may look like it.
            scores = {
                key: torch.where(flag, score, math.nan)
                for (key, score), flag in zip(scores.items(), alive.values())
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


def _preprocessor(cfg: Any, train_cfg: Optional[dict]) -> Any:
    """The config of the preprocessor with its defaults. It is built by
    MMEngine, hence the scope."""
    if not (cfg is None or isinstance(cfg, dict)):
        return cfg
    # Copied because the config of the caller must stay as it is.
    cfg = dict(cfg or {})
    cfg.setdefault('type', 'mcod_plugin.BatchDataPreprocessor')
    if train_cfg is not None:
        cfg.setdefault('batch_augments', train_cfg)
    return cfg


def _in_two_steps(branch: ImageClassifier,
                  images: Tensor) -> Tuple[tuple, Tensor]:
    """A backbone's features, and the logits that the rest of the branch makes
    of them."""
    feats = branch.extract_feat(images, stage='backbone')
    maps = branch.neck(feats) if branch.with_neck else feats
    feats = tuple(feats) if isinstance(feats, (tuple, list)) else (feats, )
    return feats, branch.head(maps)


def _logged_weights(weights: Dict[str, float]) -> Dict[str, Tensor]:
    """``kd_weight``, the greatest, and ``<branch>.kd_weight`` where the
    branches differ."""
    logged = dict(kd_weight=max(weights.values()))
    if len(set(weights.values())) > 1:
        logged.update({
            f'{name}.kd_weight': weight
            for name, weight in weights.items()
        })
    return {key: torch.tensor(weight) for key, weight in logged.items()}


def _check_distances(distill: nn.Module, distances: Any, number: int) -> None:
    """Raise unless a distillation loss has given one loss a branch."""
    got = tuple(distances.shape) if isinstance(
        distances, Tensor) else type(distances).__name__
    if got != (number, ):
        raise ConfigError(
            f'model.distill.type {type(distill).__name__} must give a tensor '
            f'of one loss for each branch, ({number},); got {got}')


def _check_pair(teacher: nn.Module, distill: nn.Module) -> None:
    """Raise unless the loss is for the targets that the teacher gives.

    Their shapes do not tell: targets of P branches look like those of P
    peers.
    """
    if teacher.per_peer == distill.per_peer:
        return
    given = f'model.teacher.type {type(teacher).__name__}'
    taken = f'model.distill.type {type(distill).__name__}'
    if distill.per_peer:
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
    for key, value in model.teacher.missing_state(given).items():
        given[key] = state_dict[f'{prefix}{key}'] = value
    faults = state_faults(model.state_dict(), given)
    if faults:
        raise ConfigError('the checkpoint is not of this cohort '
                          f'({", ".join(model.branches)}): it '
                          + '; it '.join(faults))
