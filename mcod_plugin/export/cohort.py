"""A trained cohort, and its branches as they stand alone."""
import re
from typing import Any, Dict, List, Optional, Sequence

import numpy as np
import torch
import torch.nn as nn
from mmengine.registry import init_default_scope

from mcod_plugin.config.data import channel_order, pipeline_of
from mcod_plugin.config.explain import explain
from mcod_plugin.config.input_size import data_input_size
from mcod_plugin.config.model_config import model_config
from mcod_plugin.config.parts import is_part
from mcod_plugin.config.plain import plain
from mcod_plugin.config.pretrained import without_pretrained
from mcod_plugin.errors import ConfigError, one_line
from mcod_plugin.models.heads.ensemble_teacher import (AVERAGES,
                                                       EnsembleTeacher)
from mcod_plugin.models.utils.branch_images import resize
from mcod_plugin.models.utils.branch_settings import BranchSettings
from mcod_plugin.registry import MODELS
from .branch_model import BranchModel
from .classifier_config import PLUGIN, stand_alone
from .data_config import (crop_ratio, evaluator, preprocessor, source_loader,
                          toolbox_loader)
from .images import Images
from .verify import batches

__all__ = ['branch_logits', 'branch_model', 'branch_pixels', 'load_cohort']


def load_cohort(cfg: Any, filename: str, checkpoint: dict) -> nn.Module:
    """Build a cohort and load its weights, all of them.

    Where MMEngine's ``EMAHook`` has averaged weights, a checkpoint holds the
    averages as ``state_dict`` and the raw weights as ``ema_state_dict``; so
    it is the averages that are loaded. Averages that have taught in a cohort
    (``model.teacher.ema``) are left out: they have done their work.

    Args:
        cfg (Config): The cohort's config.
        filename (str): The checkpoint's path, for error messages.
        checkpoint (dict): Its content.

    Returns:
        nn.Module: The cohort, in eval mode on the CPU.

    Raises:
        ConfigError: If it cannot be built, or the checkpoint is not of it.
    """
    init_default_scope(cfg.get('default_scope') or 'mmpretrain')
    # Weights to start from are not needed, nor the network that they would
    # come by.
    model = model_config(cfg)
    model['branches'] = without_pretrained(model['branches'])
    model['init_cfg'] = None
    teacher = model.get('teacher')
    # Another teacher may mean something else by it.
    own = not teacher or is_part(teacher, EnsembleTeacher)
    if own and teacher and teacher.get('ema') is not None:
        model['teacher'] = type(teacher)(teacher, ema=None)
    # An order that the branches have when they stand alone.
    model['memory_format'] = 'contiguous'
    try:
        cohort = MODELS.build(model)
    except Exception as error:
        raise explain(cfg, error) from error
    state_dict = {
        re.sub(r'^module\.', '', key): value
        for key, value in checkpoint.get('state_dict', checkpoint).items()
    }
    if own:
        state_dict = {
            key: value
            for key, value in state_dict.items()
            if not key.startswith(AVERAGES)
        }
    try:
        cohort.load_state_dict(state_dict)
    except (ConfigError, RuntimeError) as error:
        raise ConfigError(f'{filename}: {one_line(error)}') from error
    return cohort.float().eval()


def branch_model(cfg: Any, cohort: nn.Module, name: str, images: Images,
                 classes: Optional[List[str]],
                 origin: Dict[str, Any]) -> BranchModel:
    """A branch as it stands alone.

    Args:
        cfg (Config): The cohort's config.
        cohort (nn.Module): The cohort.
        name (str): The branch.
        images (Images): Images as the data set gives them.
        classes (list[str], optional): Names of the classes.
        origin (dict): Where it comes from.

    Returns:
        BranchModel: All that there is to know of it.

    Raises:
        ConfigError: If its config holds more than plain values.
    """
    classifier = cohort.branches[name]
    settings = cohort.branch_settings[name]
    own = BranchSettings.of_cohort(cohort.input_size, cohort.data_preprocessor,
                                   cohort.in_channels)
    config, _ = own.take(name, cfg.model.branches[name], cohort.in_channels)
    loader = source_loader(cfg)
    pipeline = pipeline_of(loader)
    channels, *size = branch_pixels(cohort, name, images.pixels[:1]).shape[1:]
    # Whoever has images of another size has them resized, too. For those of
    # the data set it changes nothing.
    resizes = settings.resized or (images.labels is not None
                                   and data_input_size([loader]) is None)
    given = cfg.model.get('data_preprocessor') or cfg.get(
        'data_preprocessor') or {}
    metrics = cfg.get('test_evaluator') or cfg.get('val_evaluator')
    return BranchModel(
        name=name,
        classifier=classifier,
        config=stand_alone(f'model.branches.{name}', config, classifier),
        preprocessor=preprocessor(given, settings.mean, settings.std,
                                  cohort.num_classes),
        test_settings=dict(
            test_dataloader=toolbox_loader(loader, size if resizes else None,
                                           channels, settings.resized),
            test_evaluator=evaluator(metrics, cohort.num_classes),
            test_cfg=dict()),
        imports=_own_imports(cfg),
        num_classes=cohort.num_classes,
        input_shape=(channels, *size),
        mean=settings.mean or (0., ) * channels,
        std=settings.std or (1., ) * channels,
        data_order=channel_order(pipeline),
        to_rgb=bool(getattr(cohort.data_preprocessor, 'to_rgb', False)),
        crop_ratio=crop_ratio(pipeline),
        classes=classes,
        origin=origin)


def _own_imports(cfg: Any) -> List[str]:
    """The modules that a config imports, but for this plugin's."""
    found = (cfg.get('custom_imports') or {}).get('imports') or []
    found = [found] if isinstance(found, str) else found
    return [
        module for module in plain('custom_imports.imports', found)
        if module.partition('.')[0] != PLUGIN
    ]


def branch_pixels(cohort: nn.Module, name: str,
                  pixels: np.ndarray) -> np.ndarray:
    """The pixels of the images that a branch sees.

    Resizing and normalising may change places, since a resized pixel is a
    weighted mean.

    Args:
        cohort (nn.Module): The cohort.
        name (str): The branch.
        pixels (np.ndarray): Images ``(N, C, H, W)`` of the data set.

    Returns:
        np.ndarray: Images ``(N, C, h, w)``; float32 if they were resized.
    """
    settings = cohort.branch_settings[name]
    if not settings.resized or pixels.shape[2:] == settings.input_size:
        return pixels
    return np.concatenate([
        resize(
            torch.from_numpy(pixels[begin:end]).float(),
            settings.input_size).numpy()
        for begin, end in batches(len(pixels))
    ])


@torch.no_grad()
def branch_logits(cohort: nn.Module, names: Sequence[str],
                  pixels: np.ndarray) -> Dict[str, np.ndarray]:
    """Logits of branches, as they are in their cohort.

    Args:
        cohort (nn.Module): The cohort.
        names (Sequence[str]): The branches.
        pixels (np.ndarray): Images ``(N, C, H, W)`` of the data set.

    Returns:
        dict[str, np.ndarray]: Logits ``(N, num_classes)`` by branch.
    """
    found = {name: [] for name in names}
    for begin, end in batches(len(pixels)):
        inputs = torch.from_numpy(pixels[begin:end])
        inputs = cohort.data_preprocessor(dict(inputs=inputs))['inputs']
        images = cohort.branch_images(inputs)
        for name in names:
            logits = cohort.branches[name](images[name])
            found[name].append(logits.numpy())
    return {name: np.concatenate(parts) for name, parts in found.items()}
