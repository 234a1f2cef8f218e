"""From a branch's config to a classifier that fits its cohort."""
import copy
import inspect
import logging
from textwrap import shorten
from typing import Any, Optional, Tuple

import torch
import torch.nn as nn
from mmengine.logging import print_log
from mmengine.model import BaseModel
from mmpretrain.models.backbones import TIMMBackbone
from mmpretrain.models.classifiers import (BaseClassifier, ImageClassifier,
                                           TimmClassifier)
from mmpretrain.models.heads import CSRAClsHead, LinearClsHead
from mmpretrain.models.necks import GlobalAveragePooling
from mmpretrain.registry import MODELS
from torch import Tensor

from mcod_plugin.config.explain import arguments
from mcod_plugin.config.parts import is_part
from mcod_plugin.errors import ConfigError, nearest, one_line
from mcod_plugin.utils.checkpoint import shape_of
from .branch_loss import learns_from_features, loss_owner
from .feature_layout import FeatureLayout, feature_layout
from .pretrained import keep_weights
from .state_dict import name_keys_in_place
from .timm_network import (check_channels, check_pretrained,
                           classifier_lines, is_buildable,
                           layers_after_pooling, recorded_features)

__all__ = ['build_branch', 'writes_images']


def build_branch(name: str, cfg: Any, input_size: Tuple[int, int],
                 in_channels: int) -> Tuple[nn.Module, int]:
    """Build one branch, and work out what its config leaves open.

    The backbone runs once on a dummy image in eval mode. Features that are
    not flat get a pooling if the config names no neck, and the head gets its
    ``in_channels``; what the config states wins.

    ``cfg`` is as in the ``branches`` of :class:`MultiBackboneClassifier`,
    without :class:`BranchSettings`. A network that is built already is
    changed: it will keep its weights. ``input_size`` and ``in_channels`` are
    those of the dummy image. Returned are the branch and its number of
    classes. Raise if no classifier comes of it.
    """
    setting = f'model.branches.{name}'
    shape = (2, in_channels, *input_size)
    if isinstance(cfg, nn.Module):
        branch = _built(setting, cfg)
    elif isinstance(cfg, dict):
        branch = _build_classifier(setting, copy.deepcopy(cfg), shape)
    else:
        raise ConfigError(f'{setting} must be the config of a classifier '
                          f'(a dict); got {cfg!r}')
    if isinstance(branch, BaseClassifier):
        name_keys_in_place(branch)
    else:
        # It has the weights that whoever wrote it wants it to begin with.
        branch.is_init = True
    return branch, _check_classifier(setting, branch, shape)


def _build_classifier(setting: str, cfg: dict,
                      shape: Tuple[int, ...]) -> nn.Module:
    cfg.setdefault('type', 'ImageClassifier')
    # Bare names are MMPretrain's, whatever the default scope is.
    scope = cfg.setdefault('_scope_', 'mmpretrain')
    for key in ('data_preprocessor', 'train_cfg'):
        if cfg.get(key) is not None:
            raise ConfigError(
                f'{setting}.{key} is not used: all branches share one '
                f'preprocessor and its batch augmentations; set model.{key}')
    check_channels(setting, cfg)
    check_channels(f'{setting}.backbone', cfg.get('backbone'))
    with MODELS.switch_scope_and_registry(scope) as registry:
        classifier = registry.get(cfg['type']) if isinstance(
            cfg['type'], str) else cfg['type']
        if inspect.isclass(classifier) and issubclass(classifier,
                                                      ImageClassifier):
            _complete(setting, cfg, shape)
        branch = _build(setting, cfg)
    if cfg.get('pretrained') or cfg.get('checkpoint_path'):
        # A network of timm has an ``init_weights`` of its own, which MMEngine
        # would call in spite of the weights that it has.
        branch.is_init = True
    return branch


def _complete(setting: str, cfg: dict, shape: Tuple[int, ...]) -> None:
    """Put the built backbone, and neck and ``in_channels`` if they are left
    out, into the config of an ``ImageClassifier``."""
    for key in ('backbone', 'head'):
        if cfg.get(key) is None:
            raise ConfigError(f'{setting}.{key} is missing: a branch is a '
                              'complete classifier (backbone, neck, head)')
    if cfg.get('pretrained') is not None:
        # ImageClassifier would put it into the backbone's config.
        cfg['init_cfg'] = dict(
            type='Pretrained', checkpoint=cfg.pop('pretrained'))
    given, images = cfg['backbone'], torch.zeros(shape)
    backbone = _build_backbone(setting, given, cfg['head'])
    with recorded_features(backbone) as inner:
        feats = _run(f'{setting}.backbone', backbone, images)
    layout = feature_layout(backbone, _last(feats))
    if (inner and is_part(given, TIMMBackbone)
            and is_part(cfg['head'], LinearClsHead)
            and ('neck' not in cfg or _pools_maps(cfg['neck']))):
        _tell_left_out(setting, given, cfg['head'], inner[-1], images)
    if 'neck' not in cfg:
        # This one looks at all places of a map itself.
        cfg['neck'] = None if is_part(cfg['head'],
                                      CSRAClsHead) else _pooling(layout)
    neck = cfg['neck']
    if neck is not None:
        if layout is not None and layout.name != 'NCHW' and _pools_maps(neck):
            raise ConfigError(
                f'{setting}.neck {neck["type"]} pools maps (N, C, H, W), but '
                f'the backbone gives {tuple(_last(feats).shape)}; leave the '
                'neck out and it is worked out')
        neck = cfg['neck'] = _build(f'{setting}.neck', neck)
        feats = _run(f'{setting}.neck', neck, feats)
    cfg['backbone'] = backbone

    head = cfg['head']
    layout = feature_layout(backbone if neck is None else neck, _last(feats))
    if isinstance(head, dict) and layout is not None:
        given = head.get('in_channels')
        kind = head.get('type')
        cls = MODELS.get(kind) if isinstance(kind, str) else kind
        if given is None and inspect.isclass(
                cls) and 'in_channels' in arguments(cls):
            head['in_channels'] = layout.channels
        elif isinstance(given, int) and given != layout.channels:
            raise ConfigError(
                f'{setting}.head.in_channels is {given}, but the features '
                f'that reach the head have {layout.channels} channels')
    cfg['head'] = _build(f'{setting}.head', head)


def _build_backbone(setting: str, cfg: Any, head: Any) -> nn.Module:
    try:
        return _build(f'{setting}.backbone', cfg)
    except ConfigError as error:
        if not (is_part(cfg, TIMMBackbone) and isinstance(head, dict)
                and is_buildable(cfg)):
            raise
        # Some of timm's networks do not let go of their pooling.
        raise ConfigError(
            f'{error}; timm builds it with its own classifier: write '
            f'{classifier_lines(_name(setting), cfg, head)}') from error


def _tell_left_out(setting: str, backbone: dict, head: dict, features: Any,
                   images: Tensor) -> None:
    """Warn of a branch that is not the network of timm that it seems."""
    layers = layers_after_pooling(backbone, features, images)
    if layers:
        print_log(
            f"{setting} is not timm's {backbone['model_name']}, but pools and "
            'classifies its features by itself; timm has further layers after '
            f'the pooling: {", ".join(layers)}. Weights of its head do not '
            'fit, and it cannot be exported as timm. The network of timm is\n'
            f'{classifier_lines(_name(setting), backbone, head)}',
            logger='current',
            level=logging.WARNING)


def _name(setting: str) -> str:
    return setting.rpartition('.')[2]


def _pooling(layout: Optional[FeatureLayout]) -> Optional[dict]:
    if layout is None or layout.name == 'flat':
        return None
    if layout.name == 'NCHW':
        return dict(type='GlobalAveragePooling')
    if layout.name == 'NCL':
        return dict(type='GlobalAveragePooling', dim=1)
    return dict(
        type='mcod_plugin.LayoutPooling',
        layout=layout.name,
        num_prefix_tokens=layout.num_prefix_tokens)


def _pools_maps(neck: Any) -> bool:
    """Whether a neck is MMPretrain's average over an image's two axes."""
    return is_part(neck, GlobalAveragePooling) and neck.get('dim', 2) == 2


def _check_classifier(setting: str, branch: nn.Module,
                      shape: Tuple[int, ...]) -> int:
    """Raise unless a branch can take part in a cohort; return its number of
    classes."""
    if isinstance(branch, BaseModel):
        owner = loss_owner(branch)
        if not isinstance(branch, BaseClassifier):
            raise ConfigError(
                f'{setting} must be an image classifier of MMPretrain, or a '
                'plain network from images to logits; got a '
                f'{type(branch).__name__}')
        if not hasattr(owner,
                       '_get_loss') and not learns_from_features(branch):
            raise ConfigError(
                f'{setting}: {type(owner).__name__} computes its loss from '
                'more than features or logits, which a cohort does not '
                'support; use a head such as LinearClsHead')
    else:
        setting = f'{setting} ({type(branch).__name__})'
    logits = _run(setting, branch, torch.zeros(shape))
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        mode = ' in mode "tensor"' * isinstance(branch, BaseModel)
        raise ConfigError(f'{setting} must give logits (N, num_classes)'
                          f'{mode}; got {shape_of(logits)} for N = {shape[0]}')
    return logits.shape[1]


def writes_images(setting: str, branch: nn.Module,
                  shape: Tuple[int, ...]) -> bool:
    """Whether a branch changes dummy images of a shape ``(N, C, H, W)`` in
    place."""
    with torch.inference_mode(False):
        images = torch.zeros(shape)
        _run(setting, branch, images)
    return images._version > 0


def _last(feats: Any) -> Any:
    return feats[-1] if isinstance(feats, (tuple, list)) and feats else feats


@torch.no_grad()
def _run(setting: str, module: nn.Module, inputs: Any) -> Any:
    """Run a module on dummy inputs in eval mode."""
    training = module.training
    # ``train`` of MMPretrain's backbones returns None, so no chaining.
    module.eval()
    try:
        return module(inputs)
    except Exception as error:
        shape = ''
        if isinstance(inputs, Tensor):
            shape = (' of {} channels (as many as data_preprocessor.mean has) '
                     'and {}x{} pixels (input_size)'.format(*inputs.shape[1:]))
        raise ConfigError(f'{setting} fails on a dummy image{shape}: '
                          f'{one_line(error)}') from error
    finally:
        module.train(training)


def _built(setting: str, module: nn.Module) -> nn.Module:
    keep_weights(setting, module)
    # Where the rest of the cohort is, until all of it is moved.
    return module.cpu()


def _build(setting: str, cfg: Any) -> nn.Module:
    if isinstance(cfg, nn.Module):
        return _built(setting, cfg)
    if isinstance(cfg, dict) and cfg.get('type') is None:
        raise ConfigError(f'{setting}.type is missing')
    try:
        if is_part(cfg, (TIMMBackbone, TimmClassifier)):
            check_pretrained(cfg)
        return MODELS.build(cfg)
    except ConfigError as error:
        raise ConfigError(f'{setting}: {error}') from error
    except KeyError:
        # A type that is not registered, which needs the whole config to be
        # explained.
        raise
    except Exception as error:
        if 'Unknown model' in str(error) and cfg.get('model_name'):
            import timm
            known = nearest(cfg['model_name'], timm.list_models(), limit=5)
            raise ConfigError(f'{setting}.model_name {cfg["model_name"]!r} is '
                              f'unknown to timm; {known}') from error
        # PyTorch lists every weight that does not fit.
        reason = shorten(one_line(error), 400, placeholder=' ...')
        raise ConfigError(f'{setting}: {reason}') from error
