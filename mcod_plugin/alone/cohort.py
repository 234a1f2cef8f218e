"""A trained cohort, of which branches are taken out."""
import os.path as osp
import re
from typing import Any, Dict, List, Optional, Sequence

import numpy as np
import torch
import torch.nn as nn
from mmengine.registry import init_default_scope

from mcod_plugin.config.explain import explain
from mcod_plugin.config.model_config import model_config
from mcod_plugin.config.parts import is_part
from mcod_plugin.config.pretrained import without_pretrained
from mcod_plugin.errors import ConfigError, one_line
from mcod_plugin.models.heads.ensemble_teacher import (AVERAGES,
                                                       EnsembleTeacher)
from mcod_plugin.models.utils.branch_images import resize
from mcod_plugin.models.utils.input_size import guess_input_size
from mcod_plugin.registry import MODELS
from mcod_plugin.runs.metrics import ENSEMBLE
from mcod_plugin.datasets.label_names import name_mismatches, trained_names
from mcod_plugin.utils.machine import describe_machine
from .images import Images, batches

__all__ = [
    'branch_logits', 'branch_pixels', 'build_cohort', 'class_names',
    'load_cohort', 'origin'
]


def build_cohort(cfg: Any, only: Optional[str] = None) -> nn.Module:
    """Build a cohort, or ``only`` one of its branches in a cohort of its own.
    That has the settings and sees the images that it has in the cohort, and is
    trained even if it is frozen there.

    Neither the weights to start from are loaded, nor the network that they
    would come by. The branches have the order of values in memory that they
    have when they stand alone.
    """
    model = model_config(cfg)
    branches = model['branches']
    if only is not None:
        # What is guessed depends on all branches.
        model['input_size'] = (
            model.get('input_size') or guess_input_size(branches))
        branch = type(branches)(branches[only])
        branch.pop('frozen', None)
        branches = {only: branch}
        # A single branch distils nothing.
        model.update(teacher=None, distill=None)
    model['branches'] = without_pretrained(branches)
    model['init_cfg'] = None
    if _averages_teach(model) and model.get('teacher'):
        model['teacher'] = type(model['teacher'])(model['teacher'], ema=None)
    model['memory_format'] = 'contiguous'
    try:
        return MODELS.build(model)
    except Exception as error:
        raise explain(cfg, error) from error


def _averages_teach(model: dict) -> bool:
    """Whether it is known what ``teacher.ema`` is: another teacher may mean
    something else by it."""
    teacher = model.get('teacher')
    return not teacher or is_part(teacher, EnsembleTeacher)


def load_cohort(cfg: Any, filename: str, checkpoint: dict) -> nn.Module:
    """Build a cohort, in eval mode on the CPU, and load all its weights from
    the checkpoint that was read from a file, which must be of it.

    Where MMEngine's ``EMAHook`` has averaged weights, a checkpoint holds the
    averages as ``state_dict`` and the raw weights as ``ema_state_dict``; so it
    is the averages that are loaded. Averages that have taught in a cohort
    (``model.teacher.ema``) are left out: they have done their work.
    """
    init_default_scope(cfg.get('default_scope') or 'mmpretrain')
    cohort = build_cohort(cfg)
    left_out = AVERAGES if _averages_teach(cfg.model) else ()
    state_dict = {}
    for key, value in checkpoint.get('state_dict', checkpoint).items():
        key = re.sub(r'^module\.', '', key)
        if not key.startswith(left_out):
            state_dict[key] = value
    try:
        cohort.load_state_dict(state_dict)
    except (ConfigError, RuntimeError) as error:
        raise ConfigError(f'{filename}: {one_line(error)}') from error
    return cohort.float().eval()


def class_names(content: dict, images: Images,
                num_classes: int) -> Optional[List[str]]:
    """The names of the classes that the training has noted in its checkpoint,
    else those of the data set; None if neither has any. Raise if they differ,
    or are not as many as the classes: labels are their numbers, so what the
    images say of the accuracy would be wrong."""
    trained = trained_names(content)
    faults = name_mismatches(images.classes, trained)
    if faults:
        raise ConfigError(f'{images.source}: the data must have the classes '
                          f'of the checkpoint ({len(trained)}) in the same '
                          f'order; of {len(images.classes)} it {faults}')
    found = trained or images.classes
    if found and len(found) != num_classes:
        place = ('meta.dataset_meta.classes of the checkpoint'
                 if trained else images.source)
        raise ConfigError(f'{place} must have a name for each of the '
                          f'{num_classes} classes; got {len(found)}')
    return [str(name) for name in found] if found else None


def origin(cfg: Any, checkpoint: str, content: dict) -> Dict[str, Any]:
    """Where a branch comes from: names of the files of config and checkpoint,
    ``versions`` of the libraries that take it out, and ``epoch``, ``iter`` and
    ``seed`` of the training as far as the checkpoint tells them."""
    meta = content.get('meta') or {}
    found = dict(
        config=osp.basename(cfg.filename or ''),
        checkpoint=osp.basename(checkpoint),
        versions=describe_machine()['versions'])
    for key in ('epoch', 'iter', 'seed'):
        if isinstance(meta.get(key), int):
            found[key] = meta[key]
    return found


def branch_pixels(cohort: nn.Module, name: str,
                  pixels: np.ndarray) -> np.ndarray:
    """The pixels ``(N, C, h, w)`` that a branch sees of images ``(N, C, H,
    W)`` of the data set; float32 if they were resized.

    Resizing and normalising may change places, since a resized pixel is a
    weighted mean.
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
def branch_logits(
        cohort: nn.Module,
        pixels: np.ndarray,
        names: Optional[Sequence[str]] = None) -> Dict[str, np.ndarray]:
    """Logits ``(N, num_classes)`` of branches for images ``(N, C, H, W)`` of
    the data set, as they are in their cohort; by default of all, and last of
    the ensemble."""
    found: Dict[str, List[np.ndarray]] = {}
    for begin, end in batches(len(pixels)):
        inputs = torch.from_numpy(pixels[begin:end])
        inputs = cohort.data_preprocessor(dict(inputs=inputs))['inputs']
        images = cohort.branch_images(inputs)
        logits = {
            name: cohort.branches[name](images[name])
            for name in names or cohort.branches
        }
        if names is None:
            logits[ENSEMBLE] = cohort.teacher.ensemble(logits)
        for name, value in logits.items():
            found.setdefault(name, []).append(value.numpy())
    return {name: np.concatenate(parts) for name, parts in found.items()}
