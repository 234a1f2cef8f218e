"""The data that a branch is given and measured by as it stands alone."""
import copy
import inspect
from typing import Any, List, Optional, Tuple

from mmcv.transforms import CenterCrop, Resize
from mmpretrain.datasets import PackInputs, ResizeEdge
from mmpretrain.evaluation import Accuracy
from mmpretrain.models import ClsDataPreprocessor

from mcod_plugin.config.data import view_pipelines
from mcod_plugin.config.parts import is_part, metric_configs, walk
from mcod_plugin.config.plain import plain
from mcod_plugin.datasets import InMemoryDataset
from mcod_plugin.datasets.in_memory_dataset import (OWN_KEYS, is_in_memory,
                                                    takes_part)
from mcod_plugin.errors import ConfigError
from mcod_plugin.models.data_preprocessors import BatchDataPreprocessor
from .classifier_config import needs_plugin

__all__ = [
    'crop_ratio', 'dataset_alone', 'evaluator', 'interpolation',
    'loader_alone', 'preprocessor', 'source_loader'
]

# What the preprocessor does in training only.
TRAINING_KEYS = {'batch_augments', 'to_onehot'}


def source_loader(cfg: Any) -> dict:
    """The data loader whose preprocessing a branch gets: ``test_dataloader``,
    or ``val_dataloader`` if there is none. Raise if there is neither."""
    for name in ('test_dataloader', 'val_dataloader'):
        if isinstance(cfg.get(name), dict):
            return cfg[name]
    raise ConfigError('the config lacks test_dataloader and val_dataloader; '
                      'how images are prepared is taken from there')


def dataset_alone(cfg: dict,
                  size: Optional[Tuple[int, int]] = None,
                  channels: int = 3,
                  exact: bool = False,
                  branch: Optional[str] = None) -> dict:
    """The config of a data set in MMPretrain's own types.

    Args:
        cfg (dict): The cohort's, which stays as it is.
        size (tuple[int, int], optional): Height and width in pixels to which
            the images are brought at the end. Defaults to their own.
        channels (int): Channels of the images. Defaults to 3.
        exact (bool): Whether they are brought to it as in the cohort, without
            rounding. Images that stay in memory cannot be.
            Defaults to False.
        branch (str, optional): The branch whose view of the images it gives,
            where each has its own. Defaults to None.

    Returns:
        dict: The config. A data set of this plugin's keeps its type, and so
        does one in memory that has a part of its source only, or coarse
        labels.
    """
    cfg = copy.deepcopy(cfg)
    for _, dataset in walk(cfg):
        if is_part(dataset, InMemoryDataset):
            # One branch sees what each of them does.
            dataset.pop('views', None)
            if not takes_part(dataset):
                own = {key: dataset.pop(key, None) for key in OWN_KEYS}
                dataset['type'] = own['source']
        if isinstance(dataset, dict) and dataset.get('pipeline'):
            views = view_pipelines(dataset['pipeline'])
            dataset['pipeline'] = views.get(branch, dataset['pipeline'])
    if size is None:
        return cfg
    if (exact or channels != 3) and not is_in_memory(cfg):
        resizing = _exact_resizing(size)
    else:
        resizing = [dict(type='Resize', scale=(size[1], size[0]))]
        if channels == 3:
            # It smooths what it shrinks, but is for colours.
            resizing[0]['backend'] = 'pillow'
    for _, steps in walk(cfg):
        if isinstance(steps, list):
            for place, step in enumerate(steps):
                if is_part(step, PackInputs):
                    steps[place:place] = resizing
                    break
    return cfg


def _exact_resizing(size: Tuple[int, int]) -> List[dict]:
    """Transforms that bring images to a size as the cohort does, which
    MMPretrain's own ``Resize`` cannot: antialiased, and not rounded."""
    return [
        # Whatever strides the array has; a tensor takes no negative ones.
        dict(type='torchvision/ToPILImage'),
        dict(type='torchvision/ToTensor'),
        dict(type='torchvision/Resize', size=tuple(size), antialias=True),
        # From 0 to 1 back to the scale of the pixels.
        dict(type='torchvision/Normalize', mean=[0.], std=[1 / 255])
    ]


def loader_alone(loader: dict,
                 size: Optional[Tuple[int, int]] = None,
                 channels: int = 3,
                 exact: bool = False) -> dict:
    """The config of a data loader for the test of a branch, of plain values;
    see :func:`dataset_alone`."""
    loader = plain('test_dataloader', loader)
    dataset = dataset_alone(loader['dataset'], size, channels, exact)
    # A part that stays in memory comes in whole batches.
    collate = ('mcod_plugin.batch_collate'
               if is_in_memory(dataset) else 'default_collate')
    return dict(
        batch_size=loader.get('batch_size', 64),
        num_workers=loader.get('num_workers', 2),
        persistent_workers=False,
        dataset=dataset,
        sampler=loader.get('sampler',
                           dict(type='DefaultSampler', shuffle=False)),
        collate_fn=dict(type=collate))


def crop_ratio(pipeline: List[dict]) -> float:
    """The share of an image's side, from 0 to 1, that a pipeline keeps; 1
    unless it resizes and then cuts the middle out."""
    ratio, edge = 1., None
    for transform in pipeline:
        if is_part(transform, ResizeEdge):
            edge = transform.get('scale')
        elif is_part(transform, CenterCrop) and edge:
            size = transform.get('crop_size')
            size = max(size) if isinstance(size, (list, tuple)) else size
            ratio = min(1., size / edge)
    return ratio


def interpolation(pipeline: List[dict]) -> str:
    """How the last transform of a pipeline that resizes images does so, as
    timm and Pillow call it; ``'bilinear'``, the transforms' own default, if
    none does."""
    found = 'bilinear'
    for transform in pipeline:
        if is_part(transform, (Resize, ResizeEdge)):
            found = transform.get('interpolation', 'bilinear')
    # OpenCV has another name for it.
    return 'box' if found == 'area' else found


def preprocessor(given: dict,
                 mean: Any,
                 std: Any,
                 num_classes: int,
                 training: bool = False) -> dict:
    """The config of MMPretrain's preprocessor in the place of the cohort's,
    with the mean and the standard deviation of each channel of the branch. If
    the branch is to be trained, batch augmentations stay. A preprocessor that
    is neither ours nor MMPretrain's stays as it is."""
    given = plain('data_preprocessor', given)
    if given.get('type') is None or is_part(
            given, (ClsDataPreprocessor, BatchDataPreprocessor)):
        known = set(inspect.signature(ClsDataPreprocessor).parameters)
        if not training:
            known -= TRAINING_KEYS
        given = {key: value for key, value in given.items() if key in known}
        # MMEngine builds it for some classifiers, hence the scope.
        given = {'type': 'mmpretrain.ClsDataPreprocessor', **given}
    if mean is not None:
        given.update(mean=list(mean), std=list(std))
    given['num_classes'] = num_classes
    return given


def evaluator(given: Any, num_classes: int, multi_label: bool = False) -> Any:
    """MMPretrain's metrics in the place of the cohort's: accuracy for ours,
    top-1 in any case; of several labels the average precision. Others stay as
    they are, those that ours evaluates by branch included."""
    metrics = metric_configs(plain('test_evaluator', given or []))
    ours = [metric for metric in metrics if needs_plugin(metric)]
    kept = [metric for metric in metrics if metric not in ours]
    for metric in ours:
        inner = metric.get('metric') or []
        kept += inner if isinstance(inner, (list, tuple)) else [inner]
    if multi_label:
        kept = kept or [dict(type='AveragePrecision')]
    elif ours or not kept:
        # MMEngine takes no metric twice.
        accuracy = next((m for m in kept if is_part(m, Accuracy)), None)
        if accuracy is None:
            accuracy = dict(type='Accuracy')
            kept.insert(0, accuracy)
        topk = {1}
        for metric in [*ours, accuracy]:
            found = metric.get('topk') or ()
            topk.update([found] if isinstance(found, int) else found)
        accuracy['topk'] = tuple(k for k in sorted(topk) if k <= num_classes)
    return kept[0] if len(kept) == 1 else kept
