"""The teacher and the distillation loss of a cohort."""
from typing import Any, Dict, Mapping, Optional, Tuple, Type

import torch
import torch.nn as nn
from mmpretrain.models.classifiers import BaseClassifier, ImageClassifier
from torch import Tensor

from mcod_plugin.errors import ConfigError
from ..heads import BaseTeacher
from ..losses import BaseKDLoss
from .branch_loss import learns_from_features
from .build_part import build_part

__all__ = ['DISTILL', 'TEACHER', 'build_distillation', 'feats_and_logits']

# What a cohort has that does not say anything else.
TEACHER = dict(type='mcod_plugin.EnsembleTeacher')
DISTILL = dict(type='mcod_plugin.DiscontinuousKDLoss')
DEFAULTS = dict(teacher=TEACHER, distill=DISTILL)


def build_distillation(
        teacher: Any,
        distill: Any,
        branches: Mapping[str, BaseClassifier],
        num_classes: int,
        shapes: Mapping[str, Tuple[int, ...]],
        multi_label: bool = False) -> Tuple[nn.Module, Optional[nn.Module]]:
    """Build teacher and distillation loss, tell them the cohort, and raise
    unless they are for each other and for it. ``distill=None`` is a cohort
    that never distils; ``shapes`` are those ``(N, C, H, W)`` of a dummy batch
    for each branch."""
    teacher = _build('teacher', teacher, BaseTeacher)
    parts = dict(teacher=teacher)
    if distill is not None:
        distill = _build('distill', distill, BaseKDLoss)
        _check_pair(teacher, distill)
        parts['distill'] = distill
    for key, part in parts.items():
        setting = f'model.{key}.type {type(part).__name__}'
        if part.needs_feats and distill is not None:
            _check_features(setting, branches)
        part.multi_label = multi_label
        if multi_label and not part.takes_multi_label:
            raise ConfigError(
                f'{setting} is not for images of several labels, whose scores '
                f'are no softmax; use {DEFAULTS[key]["type"]}, or say '
                'takes_multi_label = True in a class of your own')
    if distill is not None and distill.needs_own_grad:
        _check_own_grad(f'model.distill.type {type(distill).__name__}',
                        branches)
    teacher.setup(list(branches), num_classes)
    if distill is not None:
        distill.setup(
            list(branches), num_classes,
            _feature_shapes(branches, shapes) if distill.needs_feats else None)
    return teacher, distill


def _build(key: str, cfg: Any, base: Type[nn.Module]) -> nn.Module:
    """Build a part, whose ``type`` may be left out."""
    if cfg is None or isinstance(cfg, dict) and cfg.get('type') is None:
        cfg = {**(cfg or {}), **DEFAULTS[key]}
    part = build_part(f'model.{key}', cfg, base)
    other = BaseKDLoss if base is BaseTeacher else BaseTeacher
    if isinstance(part, other):
        raise ConfigError(
            f'model.{key}.type must be a {base.__name__}; got '
            f'{type(part).__name__}, a {other.__name__}')
    return part


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


def _check_features(setting: str, branches: Mapping[str,
                                                    BaseClassifier]) -> None:
    """Raise unless the branches have the features that a part asks for."""
    for name, branch in branches.items():
        if not isinstance(branch, ImageClassifier):
            raise ConfigError(
                f'{setting} needs features, so each branch must be an '
                f'ImageClassifier with a backbone; got {name}, a '
                f'{type(branch).__name__}')


def _check_own_grad(setting: str, branches: Mapping[str, nn.Module]) -> None:
    """Raise unless the own loss of each branch goes through its logits."""
    for name, branch in branches.items():
        if learns_from_features(branch):
            raise ConfigError(
                f'{setting} needs gradients of the own losses at the logits, '
                f'which {type(branch.head).__name__} of '
                f'model.branches.{name} computes from features instead')


@torch.no_grad()
def _feature_shapes(
        branches: Mapping[str, ImageClassifier],
        shapes: Mapping[str, Tuple[int, ...]]) -> Dict[str, tuple]:
    """By branch the shapes of its features for one image."""
    found = {}
    for name, branch in branches.items():
        training = branch.training
        branch.eval()
        feats, _, _ = feats_and_logits(branch, torch.zeros(shapes[name]))
        branch.train(training)
        found[name] = tuple(tuple(value.shape[1:]) for value in feats)
    return found


def feats_and_logits(branch: ImageClassifier,
                     images: Tensor) -> Tuple[Tuple[Tensor, ...], Any, Tensor]:
    """A backbone's features of images ``(N, C, H, W)``, those of them that
    reach the head, and the logits ``(N, C)``."""
    feats = branch.extract_feat(images, stage='backbone')
    maps = branch.neck(feats) if branch.with_neck else feats
    feats = tuple(feats) if isinstance(feats, (tuple, list)) else (feats, )
    return feats, maps, branch.head(maps)
