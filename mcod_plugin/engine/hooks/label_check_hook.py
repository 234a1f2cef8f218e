from typing import Any, Optional, Sequence, Tuple

import numpy as np
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.datasets import BaseDataset as MMPretrainDataset
from mmpretrain.utils import get_ori_model

from mcod_plugin.datasets import InMemoryDataset
from mcod_plugin.datasets.label_names import (LabelNames, label_names,
                                              name_mismatches, trained_names)
from mcod_plugin.errors import ConfigError
from mcod_plugin.registry import HOOKS

# Reading the labels of a larger data set takes longer than is fair before the
# first step; its number of classes has to do.
MAX_SAMPLES = 200_000

CHECKPOINT = 'the checkpoint'


@HOOKS.register_module()
class LabelCheckHook(Hook):
    """Refuse data whose labels the model has no class for, or does not mean
    what the data mean, and images of several labels if it gives one.

    A label is a number; what it stands for is its name. Where names are
    known, validation and test data must have those of the training data, in
    the same order. If the run is resumed or only evaluated, so must the data
    and the checkpoint. Weights that a training starts from (``load_from``)
    may have learned other classes; the log tells it.

    Examples:
        >>> default_hooks = dict(label_check=dict(
        ...     type='mcod_plugin.LabelCheckHook'))
    """

    # The names that labels must have, and what has them.
    _wanted: Optional[Tuple[LabelNames, str]] = None
    _trains = False

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Note the classes that the checkpoint was trained with."""
        classes = trained_names(checkpoint)
        if classes is not None:
            self._wanted = LabelNames(classes), CHECKPOINT

    def before_train(self, runner: Runner) -> None:
        """Check the training data, and the validation data if any."""
        self._trains = True
        wanted, self._wanted = self._wanted, None
        if wanted is not None:
            if runner.iter > 0:
                self._wanted = wanted
            else:
                self._warn_of_other_classes(runner, wanted[0].classes)
        self._check(runner, 'train_dataloader', runner.train_dataloader)
        if runner.val_loop is not None:
            self._check(runner, 'val_dataloader', runner.val_dataloader)

    def before_val(self, runner: Runner) -> None:
        """Check the validation data, unless they are a training's."""
        if not self._trains:
            self._check(runner, 'val_dataloader', runner.val_dataloader)

    def before_test(self, runner: Runner) -> None:
        """Check the test data."""
        self._check(runner, 'test_dataloader', runner.test_dataloader)

    def _check(self, runner: Runner, setting: str, loader: Any) -> None:
        """Check data; the first that have names set those of all others."""
        setting = f'{setting}.dataset'
        model = get_ori_model(runner.model)
        num_classes = getattr(model, 'num_classes', None)
        if getattr(model, 'multi_label', None) is False:
            check_one_label(setting, loader.dataset)
        bounds = label_bounds(loader.dataset)
        if None not in (num_classes, bounds):
            lowest, highest = bounds
            if lowest < 0 or highest >= num_classes:
                raise ConfigError(
                    f'{setting} has labels from {lowest} to {highest}, but '
                    f'num_classes of the branches is {num_classes} (labels 0 '
                    f'to {num_classes - 1})')
        for names in label_names(loader.dataset):
            if self._wanted is not None:
                check_names(setting, names, *self._wanted)
            if self._wanted is None or self._wanted[1] == CHECKPOINT:
                self._wanted = names, setting
                number = len(names.classes or names.folders)
                if num_classes not in (None, number):
                    runner.logger.warning(
                        f'{setting} has {number} classes, but num_classes of '
                        f'the branches is {num_classes}.')

    def _warn_of_other_classes(self, runner: Runner,
                               classes: Tuple[str, ...]) -> None:
        for names in label_names(runner.train_dataloader.dataset):
            faults = name_mismatches(names.classes, classes)
            if faults:
                runner.logger.warning(
                    'The weights to start from were trained on other classes '
                    f'({len(classes)}): train_dataloader.dataset '
                    f'({len(names.classes)}) {faults}.')
                return


def check_names(setting: str, names: LabelNames, wanted: LabelNames,
                owner: str) -> None:
    """Raise unless labels have the names that their owner has, and tell by
    which they differ."""
    for kind in LabelNames._fields:
        given, other = getattr(names, kind), getattr(wanted, kind)
        faults = name_mismatches(given, other)
        if faults:
            raise ConfigError(
                f'{setting} must have the {kind} of {owner} ({len(other)}) in '
                f'the same order, because labels are their numbers; of '
                f'{len(given)} it {faults}' +
                ('; a class without images needs its folder too'
                 if names.folders and len(given) < len(other) else ''))


def check_one_label(setting: str, dataset: Any) -> None:
    """Raise if an image has no label or several, as far as the data set, or a
    wrapper of some, tells it."""
    for part in getattr(dataset, 'datasets', ()):
        check_one_label(setting, part)
    if hasattr(dataset, 'dataset'):
        check_one_label(setting, dataset.dataset)
    for index, labels in enumerate(_labels_of_images(dataset)):
        if len(labels) != 1:
            raise ConfigError(
                f'{setting} must have one label for each image, as the '
                f'branches give; image {index} has {labels}; for several '
                'labels use heads such as MultiLabelLinearClsHead, or '
                'model.multi_label=True')


def _labels_of_images(dataset: Any) -> Sequence[Sequence[int]]:
    """The labels of each image of a data set of MMPretrain that may have
    several; nothing if it does not tell."""
    own = getattr(type(dataset), 'get_cat_ids', None)
    single = (MMPretrainDataset.get_cat_ids, InMemoryDataset.get_cat_ids)
    if (own is None or own in single or len(dataset) > MAX_SAMPLES
            or hasattr(dataset, 'dataset') or hasattr(dataset, 'datasets')):
        return ()
    try:
        return [
            np.atleast_1d(dataset.get_cat_ids(index)).tolist()
            for index in range(len(dataset))
        ]
    except (KeyError, TypeError):
        # Unlabelled data.
        return ()


def label_bounds(dataset: Any) -> Optional[tuple]:
    """The lowest and the highest label of a data set, or of a wrapper of some;
    None if it does not tell."""
    if hasattr(dataset, 'datasets'):
        found = [label_bounds(part) for part in dataset.datasets]
        found = [bounds for bounds in found if bounds is not None]
        return (min(low for low, _ in found), max(
            high for _, high in found)) if found else None
    if hasattr(dataset, 'dataset'):
        return label_bounds(dataset.dataset)
    several = _labels_of_images(dataset)
    if several:
        labels = [label for labels in several for label in labels]
        return (min(labels), max(labels)) if labels else None
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
