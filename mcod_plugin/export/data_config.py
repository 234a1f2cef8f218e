"""What a branch as it stands alone is given and measured by."""
import inspect
from typing import Any, List, Optional, Tuple

from mmpretrain.models import ClsDataPreprocessor

from mcod_plugin.errors import ConfigError
from mcod_plugin.utils.dataset_layers import dataset_layers
from mcod_plugin.utils.part_name import part_name
from .classifier_config import PLUGIN, plain

__all__ = [
    'channel_order', 'crop_ratio', 'evaluator', 'pipeline_of', 'preprocessor',
    'source_loader', 'toolbox_loader'
]

# What InMemoryDataset takes and the toolbox's data sets do not.
OWN_KEYS = ('source', 'device', 'max_gib', 'per_class')

# What the preprocessor does in training only.
TRAINING_KEYS = ('batch_augments', 'to_onehot')


def source_loader(cfg: Any) -> dict:
    """The data loader whose preprocessing an exported branch gets.

    Args:
        cfg (Config): The cohort's config.

    Returns:
        dict: ``test_dataloader``, or ``val_dataloader`` if there is none.

    Raises:
        ConfigError: If the config has neither.
    """
    for name in ('test_dataloader', 'val_dataloader'):
        if isinstance(cfg.get(name), dict):
            return cfg[name]
    raise ConfigError('the config lacks test_dataloader and val_dataloader; '
                      'how images are prepared is taken from there')


def toolbox_loader(loader: dict,
                   size: Optional[Tuple[int, int]] = None,
                   channels: int = 3) -> dict:
    """A test loader's config in the toolbox's own types.

    Args:
        loader (dict): The cohort's.
        size (tuple[int, int], optional): Height and width in pixels to which
            the images are brought at the end. Defaults to their own.
        channels (int): Channels of the images. Defaults to 3.

    Returns:
        dict: The config. A data set of this plugin's keeps its type, and so
        does one in memory of which ``per_class`` selects a part.
    """
    loader = plain('test_dataloader', loader)
    dataset = _without_memory(loader['dataset'])
    if size is not None:
        resize = dict(type='Resize', scale=(size[1], size[0]))
        if channels == 3:
            # Smooths what it shrinks, as the cohort does, but is for colours.
            resize['backend'] = 'pillow'
        _insert_last(dataset, resize)
    return dict(
        batch_size=loader.get('batch_size', 64),
        num_workers=loader.get('num_workers', 2),
        persistent_workers=False,
        dataset=dataset,
        sampler=loader.get('sampler',
                           dict(type='DefaultSampler', shuffle=False)),
        collate_fn=dict(type='default_collate'))


def _without_memory(value: Any) -> Any:
    """Put the toolbox's data sets in the place of those in memory."""
    if isinstance(value, (list, tuple)):
        return type(value)(map(_without_memory, value))
    if not isinstance(value, dict):
        return value
    if (value.get('type') == f'{PLUGIN}.InMemoryDataset'
            and value.get('per_class') is None):
        kept = {k: v for k, v in value.items() if k not in OWN_KEYS}
        value = {**kept, 'type': value['source']}
    return {key: _without_memory(child) for key, child in value.items()}


def _insert_last(value: Any, transform: dict) -> None:
    """Put a transform before the packing into all pipelines of a config."""
    for child in list(value.values() if isinstance(value, dict) else value):
        if isinstance(child, (dict, list, tuple)):
            _insert_last(child, transform)
    if isinstance(value, list):
        names = [
            child.get('type') for child in value if isinstance(child, dict)
        ]
        if 'PackInputs' in names:
            value.insert(names.index('PackInputs'), transform)


def pipeline_of(loader: dict) -> List[dict]:
    """The transforms of a data loader's config.

    Args:
        loader (dict): The config.

    Returns:
        list[dict]: Those of its data set, or of the one that this wraps.
    """
    for dataset in dataset_layers(loader.get('dataset')):
        if dataset.get('pipeline'):
            return list(dataset['pipeline'])
    return []


def channel_order(pipeline: List[dict]) -> str:
    """The order of the colours of the images that a pipeline gives.

    Args:
        pipeline (list[dict]): Configs of its transforms.

    Returns:
        str: ``'BGR'`` of image files, as OpenCV reads them, ``'RGB'`` of data
        sets that hold the pixels.
    """
    loads = any(
        str(transform.get('type')).endswith('LoadImageFromFile')
        for transform in pipeline)
    return 'BGR' if loads else 'RGB'


def crop_ratio(pipeline: List[dict]) -> float:
    """The share of an image's side that a pipeline keeps.

    Args:
        pipeline (list[dict]): Configs of its transforms.

    Returns:
        float: From 0 to 1; 1 unless it resizes and then cuts the middle out.
    """
    ratio, edge = 1., None
    for transform in pipeline:
        name = part_name(transform)
        if name == 'ResizeEdge':
            edge = transform.get('scale')
        elif name == 'CenterCrop' and edge:
            size = transform.get('crop_size')
            size = max(size) if isinstance(size, (list, tuple)) else size
            ratio = min(1., size / edge)
    return ratio


def preprocessor(given: dict, mean: Any, std: Any, num_classes: int) -> dict:
    """The toolbox's preprocessor in the place of the cohort's.

    Args:
        given (dict): The config of the cohort's.
        mean (Sequence[float] | None): Mean of each channel of the branch.
        std (Sequence[float] | None): Standard deviation of each channel.
        num_classes (int): Number of classes.

    Returns:
        dict: The config. A preprocessor that is neither ours nor the
        toolbox's stays as it is.
    """
    given = plain('data_preprocessor', given)
    kind = part_name(given) or 'ClsDataPreprocessor'
    if kind in ('ClsDataPreprocessor', 'BatchDataPreprocessor'):
        known = inspect.signature(ClsDataPreprocessor).parameters
        given = {
            key: value
            for key, value in given.items()
            if key in known and key not in TRAINING_KEYS
        }
        # MMEngine builds it for some classifiers, hence the scope.
        given = {'type': 'mmpretrain.ClsDataPreprocessor', **given}
    if mean is not None:
        given.update(mean=list(mean), std=list(std))
    given['num_classes'] = num_classes
    return given


def evaluator(given: Any, num_classes: int) -> Any:
    """The toolbox's metrics in the place of the cohort's.

    Args:
        given (dict | list[dict] | None): The cohort's evaluator.
        num_classes (int): Number of classes.

    Returns:
        dict | list[dict]: Accuracy for ours; others stay as they are.
    """
    metrics = plain('test_evaluator', given or [])
    metrics = metrics if isinstance(metrics, list) else [metrics]
    kept, topk = [], (1, )
    for metric in metrics:
        if str(metric.get('type')).startswith(f'{PLUGIN}.'):
            topk = metric.get('topk', topk)
        else:
            kept.append(metric)
    if len(kept) < len(metrics) or not kept:
        topk = (topk, ) if isinstance(topk, int) else topk
        topk = tuple(k for k in topk if k <= num_classes)
        kept.insert(0, dict(type='Accuracy', topk=topk))
    return kept[0] if len(kept) == 1 else kept
