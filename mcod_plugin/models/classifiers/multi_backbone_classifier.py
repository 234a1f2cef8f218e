import math
from contextlib import ExitStack
from functools import partial
from typing import (Any, Callable, Dict, Iterable, List, Optional, Sequence,
                    Tuple, Union)

import torch
import torch.nn as nn
from mmengine.model import ModuleDict
from mmpretrain.models.classifiers import BaseClassifier
from mmpretrain.structures import DataSample
from torch import Tensor

from mcod_plugin.config.input_size import parse_input_size
from mcod_plugin.errors import (ConfigError, check_branches, check_choice,
                                check_number)
from mcod_plugin.registry import MODELS
from mcod_plugin.structures import BatchDataSample, as_data_samples
from mcod_plugin.utils.checkpoint import shape_of
from ..heads import BaseTeacher
from ..losses import BaseKDLoss
from ..utils.batch_counts import counted_together
from ..utils.branch_images import BranchImages, Inputs, check_shared
from ..utils.branch_loss import (branch_loss, gradient_ratio,
                                 learns_from_features, logit_gradients,
                                 soft_labels, total_loss)
from ..utils.branch_peers import BranchPeers
from ..utils.branch_settings import BranchSettings, freeze
from ..utils.branch_streams import BranchStreams
from ..utils.build_cohort import (build_branches, check_names,
                                  with_default_preprocessor)
from ..utils.build_distillation import (DISTILL, TEACHER, build_distillation,
                                        feats_and_logits)
from ..utils.build_part import adapt
from ..utils.divergence_mask import DivergenceMask, fill_diverged
from ..utils.input_size import guess_input_size
from ..utils.label_rule import LabelRule, check_mixing
from ..utils.memory_format import (MEMORY_FORMATS, MemoryFormats,
                                   choose_memory_format)
from ..utils.pretrained import load_pretrained, take_pretrained
from ..utils.recompute import recomputed
from ..utils.rehearsal import (batch_size, check_ensemble, check_targets, told,
                               undisturbed)
from ..utils.state_dict import check_state_dict


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

            Any other network from images to logits ``(N, C)`` may be a branch
            as well, built or by its config, such as
            ``dict(type='torchvision.models.resnet18', num_classes=10)``. Its
            own loss is the cross entropy, unless it has a method
            ``_get_loss(logits, data_samples)`` that gives losses by name.

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
              the weight decay of all its parameters.
            - ``optimizer`` and ``clip_grad``: the config of an optimizer, and
              limits of the gradients, of its own instead of the cohort's.
              ``clip_grad=None``: they are not clipped. These and the factors
              are applied by :class:`BranchOptimWrapperConstructor`.
            - ``loss_weight``: a factor of all its losses, its own and that of
              the distillation. Optimizers such as Adam, whose steps do not
              depend on the scale of a gradient, are hardly moved by it.
            - ``frozen=True``: it only teaches. It has no loss and stays as it
              is, the statistics of its batch norm included.
            - ``recompute=True``: its activations are not kept for the
              backward pass but computed again, which takes less memory and
              more time. Its gradients and statistics are the same.

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
        recompute (bool): The ``recompute`` of the branches that do not say.
            Defaults to False.
        multi_label (bool, optional): Whether an image has several labels. The
            own loss of a plain network is then the binary cross entropy of
            all classes, the distillation that of :func:`binary_kd_loss`, and
            scores are sigmoids. Defaults to None: the heads of the branches
            tell, which must agree.
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
        label_rule (LabelRule): How scores and labels come from logits.
        kd_weights (dict[str, float]): Current weight of the distillation term
            of each branch that is trained.
        ratio_due (bool): Whether the next step that distils is to give
            ``<branch>.kd_ratio``; it then sets this to False. A hook such as
            :class:`CohortRuntimeInfoHook` sets it to True.
        kd_factors (dict[str, Tensor] | None): The :attr:`kd_weights` on the
            device, while a step is recorded that is to read them there.
        streams (BranchStreams | None): What has the branches work beside each
            other, while a step is recorded.
        peers (BranchPeers | None): The processes in which the other branches
            live, if not all of them live here.
        divergence (DivergenceMask): Leaves out what diverges.

    Raises:
        ConfigError: If the preprocessor divides by 0, there is no branch to
            train, a name cannot be used, a branch cannot be built or not be
            had in the memory format, the numbers of classes differ, that of
            the preprocessor included, some are for images of one label and
            some for several, or the teacher is not for such a cohort or loss.
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
                 loss_weight: float = 1.0,
                 recompute: bool = False,
                 multi_label: Optional[bool] = None) -> None:
        super().__init__(
            init_cfg=init_cfg,
            data_preprocessor=with_default_preprocessor(
                data_preprocessor, train_cfg))
        check_names(branches)
        check_number('model.loss_weight', loss_weight, 0, exclusive=True)
        check_choice('model.recompute', recompute, (True, False))
        if input_size is None:
            input_size = guess_input_size(branches)
        self.input_size = parse_input_size('model.input_size', input_size)
        mean = getattr(self.data_preprocessor, 'mean', None)
        self.in_channels = 3 if mean is None else mean.numel()
        own = BranchSettings.of_cohort(self.input_size, self.data_preprocessor,
                                       self.in_channels, loss_weight,
                                       recompute)
        built, self.branch_settings, self.num_classes = build_branches(
            branches, own, self.in_channels, self.data_preprocessor)
        self.branches = ModuleDict(built)
        self.label_rule = LabelRule.of(built, multi_label)
        check_mixing(built, self.data_preprocessor)
        self._by_features = {
            name
            for name, branch in built.items() if learns_from_features(branch)
        }
        self._freeze_branches()
        self._choose_memory_formats(memory_format)
        self.branch_images = BranchImages(own, self.branch_settings,
                                          self.memory_formats)
        self.teacher, self.distill = build_distillation(
            teacher, distill, self.branches, self.num_classes, self._shapes(),
            self.multi_label)
        self._begin_teacher()
        self.kd_weights = {}
        # Those for which the last step that distilled had a target.
        self._taught = set(self.branches)
        self.ratio_due = False
        self.kd_factors: Optional[Dict[str, Tensor]] = None
        self.streams: Optional[BranchStreams] = None
        self.peers: Optional[BranchPeers] = None
        self.divergence = DivergenceMask(self.branches)
        self._register_load_state_dict_pre_hook(
            check_state_dict, with_module=True)

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
        shapes = self._shapes()
        self.memory_formats = MemoryFormats(
            (name,
             choose_memory_format(f'model.branches.{name}', memory_format,
                                  branch, shapes[name]))
            for name, branch in self.branches.items())

    def _shapes(self) -> Dict[str, Tuple[int, ...]]:
        """The shape ``(N, C, H, W)`` of a dummy batch for each branch."""
        return {
            name: (2, self.in_channels, *settings.input_size)
            for name, settings in self.branch_settings.items()
        }

    def __setattr__(self, name: str, value: Any) -> None:
        # Also one that is exchanged later on.
        if name == 'teacher':
            value = adapt(value, BaseTeacher)
        elif name == 'distill' and value is not None:
            value = adapt(value, BaseKDLoss)
        elif name == 'kd_weights':
            # Who leaves one out means that it is not distilled.
            check_branches('model.kd_weights', value, self._trained)
            value = {**dict.fromkeys(self._trained, 0.), **value}
        super().__setattr__(name, value)

    @property
    def _trained(self) -> List[str]:
        """The branches that are not frozen."""
        return [name for name in self.branches if name not in self.frozen]

    @property
    def kd_weight(self) -> float:
        """float: Current weight of the distillation term, the greatest of
        :attr:`kd_weights`; written, it is that of all of them."""
        return max(self.kd_weights.values())

    @kd_weight.setter
    def kd_weight(self, weight: float) -> None:
        self.kd_weights = dict.fromkeys(self.kd_weights, weight)

    @property
    def multi_label(self) -> bool:
        """bool: Whether an image has several labels."""
        return self.label_rule.multi_label

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
                inputs: Inputs,
                data_samples: Optional[List[DataSample]] = None,
                mode: str = 'tensor') -> Any:
        """The entry for training and test.

        Args:
            inputs (Tensor | dict[str, Tensor]): Images ``(N, C, H, W)``; in
                mode ``'loss'`` the branches may have views of their own.
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

        Raises:
            ConfigError: If the branches are to have views of their own.
        """
        check_shared(inputs)
        return self._all_logits(self._own_logits(inputs))

    def _all_logits(self, logits: Dict[str, Tensor]) -> Dict[str, Tensor]:
        """Logits of all branches, from those that live in this process."""
        if self.peers is None:
            return logits
        return self.peers.share(logits, self.kd_weights)

    def _own_logits(
            self,
            inputs: Inputs,
            feats: Optional[Dict[str, tuple]] = None,
            head_feats: Optional[Dict[str,
                                      tuple]] = None) -> Dict[str, Tensor]:
        """Logits of the branches that live in this process. ``feats`` gets the
        features of their backbones, ``head_feats`` those that reach the heads
        which compute their losses from them."""
        names = self.branches if self.peers is None else self.peers.own
        images = self.branch_images(inputs, names)
        if any(branch._compiled_call_impl
               for branch in self.branches.values()):
            # To CUDA graphs each branch is a program of its own, and without
            # a backward to come the next one would overwrite its logits.
            # PyTorch 2.1 has no such call, and compiles without graphs.
            getattr(torch.compiler, 'cudagraph_mark_step_begin', tuple)()
        logits = {}
        for name in names:
            by_features = head_feats is not None and name in self._by_features
            if feats is None and not by_features:
                logits[name] = self._run(name, self.branches[name],
                                         images[name])
                continue
            own, before, logits[name] = self._run(
                name, partial(feats_and_logits, self.branches[name]),
                images[name])
            if feats is not None:
                feats[name] = own
            if by_features:
                head_feats[name] = before
        for name, score in logits.items():
            if not isinstance(score, Tensor) or score.ndim != 2:
                # Some networks give more while they are trained.
                raise ConfigError(
                    f'model.branches.{name} must give logits (N, num_classes) '
                    f'while it is trained; got {shape_of(score)}')
        if self.streams is not None:
            self.streams.join(logits, feats or {}, head_feats or {})
        return {
            name: score.float() if score.dtype in (
                torch.float16, torch.bfloat16) else score
            for name, score in logits.items()
        }

    def _run(self, name: str, call: Callable, images: Tensor) -> Any:
        """What a call of a branch gives for its images, computed as the branch
        is to be."""
        with ExitStack() as stack:
            if name in self.frozen:
                stack.enter_context(torch.no_grad())
            if self.streams is not None:
                stack.enter_context(self.streams.work(name, images))
            if self.peers is not None:
                stack.enter_context(self.peers.randomness(name, images.device))
            if self.branch_settings[name].recompute:
                return recomputed(call, self.branches[name], images)
            return call(images)

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

        Raises:
            ConfigError: If a branch has no such method, as a plain network.
        """
        images = self.branch_images(inputs)
        for name, branch in self.branches.items():
            if not hasattr(branch, 'extract_feat'):
                raise ConfigError(
                    f'model.branches.{name} ({type(branch).__name__}) has no '
                    'extract_feat: a plain network tells no features')
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

    def loss(self, inputs: Inputs, data_samples: Any) -> Dict[str, Tensor]:
        """Losses of all branches.

        Args:
            inputs (Tensor | dict[str, Tensor]): Images ``(N, C, H, W)``, or
                a view of them for each branch.
            data_samples (BatchDataSample | list[DataSample] | Tensor):
                Annotations of the images, or their labels ``(N, )`` or
                probabilities ``(N, C)``.

        Returns:
            dict[str, Tensor]: ``<branch>.loss_ce`` for each branch that is
            trained, in on-phases ``<branch>.loss_kd`` as well, both weighted,
            ``teacher.<key>`` if the teacher has losses of its own, and
            ``kd_weight``. If :attr:`ratio_due`, ``<branch>.kd_ratio``: how
            hard the distillation pulls at the branch's logits, against its
            own loss. It is the ratio of the norms of both gradients there, as
            they are weighted; there is none where the own loss is computed
            from features, as that of a head with margins.
        """
        data_samples = as_data_samples(data_samples)
        weights = self._weights_in_effect()
        feats = {} if self._needs_feats(weights) else None
        head_feats: Dict[str, tuple] = {}
        with counted_together(self._counting()):
            logits = self._own_logits(inputs, feats, head_feats)
        own = self._branch_losses(logits, data_samples, head_feats)
        losses = self._own_losses(own)
        alive = self.divergence.detect(logits, losses)
        losses = fill_diverged(losses, alive, 0.)
        teaches = self.distill is not None and self.teacher.loss is not None
        if teaches or any(weights.values()):
            logits = self._all_logits(logits)
        # What the teacher learns from, and then what it teaches.
        labels = None
        if self._needs_labels(weights):
            labels = soft_labels(data_samples, next(iter(logits.values())))
        if teaches:
            for key, value in self._ask(self.teacher.loss, logits, alive,
                                        labels).items():
                losses[f'teacher.{key}'] = value
        if any(weights.values()):
            targets = self._targets(inputs, logits, alive, labels, feats)
            self._taught = set(targets)
            losses.update(
                self._kd_losses(weights, logits, targets, own, alive, labels,
                                feats))
        self._reach_all_parameters(losses)
        if self.kd_factors is None:
            losses.update(self.logged_weights())
        return losses

    def _branch_losses(
            self, logits: Dict[str, Tensor], data_samples: Sequence,
            head_feats: Dict[str, tuple]) -> Dict[str, Dict[str, Any]]:
        """What each branch that is trained would have alone."""
        found = {
            name:
            branch_loss(self.branches[name], logits[name], data_samples,
                        head_feats.get(name), self.multi_label)
            for name in self.kd_weights if name in logits
        }
        for name, losses in found.items():
            if 'loss_kd' in losses:
                raise ConfigError(
                    f'model.branches.{name} calls a loss of its own loss_kd, '
                    'as that of the distillation; give it another name')
        return found

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
            head_feats: Dict[str, tuple] = {}
            logits = self._own_logits(inputs, feats, head_feats)
        for name in self.kd_weights:
            if name in logits:
                logits[name].requires_grad_()
        own = self._branch_losses(logits, samples, head_feats)
        logits = self._all_logits(logits)
        labels = soft_labels(samples, next(iter(logits.values())))
        with told(f'model.teacher.type {type(self.teacher).__name__}'):
            check_ensemble(self.teacher,
                           self._ask(self.teacher.ensemble, logits, None),
                           labels.shape)
            if self.teacher.loss is not None:
                self.parse_losses(
                    self._ask(self.teacher.loss, logits, None, labels))
            targets = self._targets(inputs, logits, None, labels, feats)
        with told(f'model.distill.type {type(self.distill).__name__}'):
            self._kd_losses(weights, logits, targets, own, None, labels, feats)

    def logged_weights(self) -> Dict[str, Tensor]:
        """What a step logs of the weights of the distillation.

        Returns:
            dict[str, Tensor]: ``kd_weight``, the greatest, and
            ``<branch>.kd_weight`` where the branches differ; 0 for a branch
            that has no target or is left out.
        """
        weights = {
            name: weight if name in self._taught
            and name not in self.divergence.left_out else 0.
            for name, weight in self._weights_in_effect().items()
        }
        logged = dict(kd_weight=max(weights.values()))
        if len(set(weights.values())) > 1:
            logged.update({
                f'{name}.kd_weight': weight
                for name, weight in weights.items()
            })
        return {key: torch.tensor(weight) for key, weight in logged.items()}

    def _weights_in_effect(self) -> Dict[str, float]:
        """The weight of the distillation of each branch in this step."""
        if self.distill is None:
            return dict.fromkeys(self.kd_weights, 0.)
        # A single one may have been written.
        check_branches('model.kd_weights', self.kd_weights, self._trained)
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
                    if isinstance(value, list):
                        # As MMEngine adds them up.
                        value = sum(part.mean() for part in value)
                    value = self._weighted(name, value)
                key = f'{name}.{"loss_ce" if key == "loss" else key}'
                # A head may have losses of both names.
                losses[key] = losses[key] + value if key in losses else value
        return losses

    def _needs_feats(self, weights: Dict[str, float]) -> bool:
        """Whether teacher or loss are given features in this step."""
        return any(weights.values()) and (
            self.teacher.needs_feats or self.distill.needs_feats)

    def _needs_labels(self, weights: Dict[str, float]) -> bool:
        """Whether teacher or loss are given labels in this step."""
        if self.distill is None:
            return False
        return self.teacher.loss is not None or any(weights.values()) and (
            self.teacher.needs_labels or self.distill.needs_labels)

    def _targets(self, inputs: Inputs, logits: Dict[str, Tensor],
                 alive: Optional[Dict[str, Tensor]], labels: Optional[Tensor],
                 feats: Optional[Dict[str, tuple]]) -> Dict[str, Tensor]:
        """What the teacher gives, by branch."""
        more = _needed(
            self.teacher,
            labels=labels,
            feats=self.divergence.present_feats(self.teacher, feats, alive))
        if self.teacher.needs_images:
            more['images'] = self.branch_images(inputs)
        targets = self._ask(self.teacher, logits, alive, **more)
        check_targets(self.teacher, targets, logits)
        # Nothing is learned by moving a target; one of several branches stays
        # one tensor.
        detached: Dict[int, Tensor] = {}
        return {
            name: detached.setdefault(id(target), target.detach())
            for name, target in targets.items()
        }

    def _kd_losses(self, weights: Dict[str, float], logits: Dict[str, Tensor],
                   targets: Dict[str, Tensor], own: Dict[str, Dict[str, Any]],
                   alive: Optional[Dict[str, Tensor]],
                   labels: Optional[Tensor],
                   feats: Optional[Dict[str, tuple]]) -> Dict[str, Tensor]:
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
            own_grad = self._own_gradients(own, logits, names)
        more = _needed(
            distill,
            labels=labels,
            feats=self.divergence.present_feats(distill, feats, alive),
            own_grad=own_grad)
        if distill.needs_feats or distill.needs_own_grad:
            more['names'] = names
        distances, learning = self.divergence.call_loss(
            distill, students, target,
            alive and [alive[name] for name in names], **more)
        _check_distances(distill, distances, len(names))
        distances = self.divergence.mask_overflow(names, learning, distances)
        # Read on the device by a step that is recorded.
        factors = weights if self.kd_factors is None else self.kd_factors
        losses = {
            f'{name}.loss_kd': self._weighted(name, factors[name] * distance)
            for name, distance in zip(names, distances)
        }
        if ratio_due:
            self.ratio_due = False
            # A branch's loss_weight is in both.
            kd_grad, = logit_gradients([distances.sum()], [students])
            ratios = gradient_ratio(kd_grad, own_grad)
            losses.update({
                f'{name}.kd_ratio': factors[name] * ratio
                for name, ratio in zip(names, ratios)
                if name not in self._by_features
            })
        return losses

    def _own_gradients(self, own: Dict[str, Dict[str, Any]],
                       logits: Dict[str, Tensor],
                       names: List[str]) -> Tensor:
        """Gradients ``(B, N, C)`` of the own losses of some branches at their
        logits."""
        here = [name for name in names if name in own]
        losses = [total_loss(own[name]) for name in here]
        places = [logits[name] for name in here]
        if self.peers is None:
            return logit_gradients(losses, places)
        # One that is frozen has no loss.
        gradients = {name: torch.zeros_like(logits[name])
                     for name in self.peers.own}
        if here:
            gradients.update(zip(here, logit_gradients(losses, places)))
        gradients = self.peers.share(gradients)
        return torch.stack([gradients[name] for name in names])

    def _counting(self) -> List[nn.Module]:
        """The branches whose batch norms are told at once that there was a
        batch. The compiler fuses these operations by itself; what is
        recomputed takes them back."""
        return [
            branch for name, branch in self.branches.items()
            if branch.training and not branch._compiled_call_impl
            and not self.branch_settings[name].recompute
        ]

    def _reach_all_parameters(self, losses: Dict[str, Any]) -> None:
        """Give parameters of the distillation the gradient 0 where no loss
        reaches them, as in an off-phase: DistributedDataParallel would wait
        for it."""
        # The sum of no elements is 0 even of a parameter that is not finite.
        zeros = [
            value.flatten()[:0].sum() for part in (self.teacher, self.distill)
            if part is not None for value in part.parameters()
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
            data_samples (Sequence[DataSample] | Tensor, optional): Samples
                to fill, or None for each that is to be new; all are new when
                left out. Or labels, as in :meth:`loss`.

        Returns:
            BatchDataSample | list[DataSample]: With ``pred_score`` and
            ``pred_label`` of the ensemble and ``pred_score_<branch>`` of each
            branch; NaN for one that is left out. Scores are probabilities
            ``(num_classes, )``. A new batch if one was given, else a list;
            of several labels see :meth:`LabelRule.samples`.
        """
        data_samples = as_data_samples(data_samples)
        logits = {
            name: score.detach()
            for name, score in self.branch_logits(inputs).items()
        }
        alive = self.divergence.flags()
        ensemble = self._ask(self.teacher.ensemble, logits, alive)
        scores = {
            name: self.label_rule.scores(score)
            for name, score in logits.items()
        }
        if alive is not None:
            # They predict nothing, though their numbers may look like it.
            scores = {
                name: torch.where(alive[name], score, math.nan)
                for name, score in scores.items()
            }
        return self.label_rule.samples(
            data_samples,
            dict(
                pred_score=self.label_rule.scores(ensemble),
                **{
                    f'pred_score_{name}': score
                    for name, score in scores.items()
                }))


def _needed(part: nn.Module, **given: Any) -> Dict[str, Any]:
    """Of some arguments those that a teacher or a loss asks for."""
    return {
        key: value
        for key, value in given.items() if getattr(part, f'needs_{key}')
    }


def _check_distances(distill: nn.Module, distances: Any, number: int) -> None:
    """Raise unless a distillation loss has given one loss a branch."""
    got = shape_of(distances)
    if got != (number, ):
        raise ConfigError(
            f'model.distill.type {type(distill).__name__} must give a tensor '
            f'of one loss for each branch, ({number},); got {got}')
