from typing import Any, Optional

import numpy as np
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.utils import get_ori_model

from mcod_plugin.errors import ConfigError
from mcod_plugin.registry import HOOKS

# Reading the labels of a larger data set takes longer than is fair before the
# first step; its number of classes has to do.
MAX_SAMPLES = 200_000


@HOOKS.register_module()
class LabelCheckHook(Hook):
    """Refuse data whose labels the model has no class for.

    Examples:
        >>> default_hooks = dict(label_check=dict(
        ...     type='mcod_plugin.LabelCheckHook'))
    """

    def before_train(self, runner: Runner) -> None:
        """Check the training data, and the validation data if any."""
        self._check(runner, 'train_dataloader', runner.train_dataloader)
        if runner.val_loop is not None:
            self._check(runner, 'val_dataloader', runner.val_dataloader)

    def before_test(self, runner: Runner) -> None:
        """Check the test data."""
        self._check(runner, 'test_dataloader', runner.test_dataloader)

    def _check(self, runner: Runner, setting: str, loader: Any) -> None:
        num_classes = getattr(get_ori_model(runner.model), 'num_classes', None)
        bounds = label_bounds(loader.dataset)
        if num_classes is None or bounds is None:
            return
        lowest, highest = bounds
        if lowest < 0 or highest >= num_classes:
            raise ConfigError(
                f'{setting}.dataset has labels from {lowest} to {highest}, '
                f'but num_classes of the branches is {num_classes} (labels 0 '
                f'to {num_classes - 1})')


def label_bounds(dataset: Any) -> Optional[tuple]:
    """The lowest and the highest label of a data set.

    Args:
        dataset (Dataset): A data set of the toolbox, or a wrapper of some.

    Returns:
        tuple[int, int] | None: None if the data set does not tell.
    """
    if hasattr(dataset, 'datasets'):
        found = [label_bounds(part) for part in dataset.datasets]
        found = [bounds for bounds in found if bounds is not None]
        return (min(low for low, _ in found), max(
            high for _, high in found)) if found else None
    if hasattr(dataset, 'dataset'):
        return label_bounds(dataset.dataset)
    if not hasattr(dataset, 'get_gt_labels') or len(dataset) == 0:
        return None
    if len(dataset) > MAX_SAMPLES:
        classes = dataset.metainfo.get('classes')
        return (0, len(classes) - 1) if classes else None
    try:
        labels = np.asarray(dataset.get_gt_labels())
    except (KeyError, ValueError):
        # Unlabelled data, or labels of several kinds.
        return None
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        return None
    return int(labels.min()), int(labels.max())
