"""Images on which a branch alone is compared with it in its cohort."""
import copy
from typing import Any, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from mmengine.registry import init_default_scope

from mcod_plugin.config.explain import arguments, explain
from mcod_plugin.config.parts import walk
from mcod_plugin.engine.runner import CohortRunner
from mcod_plugin.errors import ConfigError
from mcod_plugin.registry import DATASETS

__all__ = ['Images', 'batches', 'validation_images']

BATCH_SIZE = 64


class Images(NamedTuple):
    """Images as a data set gives them.

    Attributes:
        pixels (np.ndarray): The images ``(N, C, H, W)``.
        labels (np.ndarray, optional): Their labels ``(N, )``; None unless
            each has one.
        classes (list[str], optional): Names of the classes.
        source (str): What they are, for people.
    """

    pixels: np.ndarray
    labels: Optional[np.ndarray]
    classes: Optional[Sequence[str]]
    source: str


def validation_images(cfg: Any, limit: int) -> Images:
    """Some images of one size, at most ``limit``, of the validation data, or
    of the test data if there are none, evenly spread. Nothing is
    downloaded."""
    key = 'val_dataloader'
    if cfg.get(key) is None:
        key = 'test_dataloader'
    if cfg.get(key) is None:
        raise ConfigError('there are no images to compare on: the config has '
                          'neither val_dataloader nor test_dataloader')
    loader = copy.deepcopy(cfg[key])
    init_default_scope(cfg.get('default_scope') or 'mmpretrain')
    try:
        _forbid_download(loader.get('dataset'))
        # Workers would be started for nothing.
        loader.update(num_workers=0, persistent_workers=False)
        dataset = CohortRunner.build_dataloader(loader, seed=0).dataset
        number = min(limit, len(dataset))
        chosen = np.linspace(0, len(dataset) - 1, number).round().astype(int)
        pixels, labels = None, np.empty(number, np.int64)
        for row, index in enumerate(chosen):
            item = dataset[int(index)]
            image = item['inputs'].cpu().numpy()
            if pixels is None:
                # There may be no room to have all of them twice.
                pixels = np.empty((number, *image.shape), image.dtype)
            if image.shape != pixels.shape[1:]:
                raise ConfigError(f'{key}: the images differ in size')
            label = item['data_samples'].get('gt_label')
            if label is None or len(label) != 1:
                labels = None
            pixels[row] = image
            if labels is not None:
                labels[row] = label.item()
    except Exception as error:
        raise explain(cfg, error) from error
    if pixels is None:
        raise ConfigError(f'{key}: there are no images')
    return Images(pixels, labels, dataset.metainfo.get('classes'),
                  f'{number:,} of {len(dataset):,} images of {key}')


def _forbid_download(cfg: Any) -> None:
    """Set ``download`` of all data sets within a config that have it."""
    for _, value in walk(cfg):
        if isinstance(value, dict):
            kind = value.get('source', value.get('type'))
            if isinstance(kind, str):
                with DATASETS.switch_scope_and_registry(None) as registry:
                    kind = registry.get(kind)
            if kind is not None and 'download' in arguments(kind):
                value['download'] = False


def batches(number: int) -> List[Tuple[int, int]]:
    """Begin and end of each batch of a number of images. The first batch is
    one image, so that sizes differ."""
    begins = [0, *range(1, number, BATCH_SIZE)]
    return list(zip(begins, [*begins[1:], number]))
