"""Parts of a data set: some of its classes, some images of each class."""
import pickle
from os.path import expanduser
from typing import Any, List, Optional, Sequence, Tuple, Union

import numpy as np
from mmengine import list_from_file
from mmengine.fileio import exists, get, join_path
from mmpretrain.datasets import CIFAR100
from mmpretrain.datasets.utils import check_md5

from mcod_plugin.errors import ConfigError, nearest, one_line

__all__ = [
    'are_names', 'check_per_class', 'find_classes', 'select_images',
    'select_per_class'
]

# The labels that a data set may have.
LABELS = ('fine', 'coarse')


def select_images(
    dataset: Any,
    labels: np.ndarray,
    label: str = 'fine',
    classes: Union[str, Sequence[Union[str, int]], None] = None,
    per_class: Optional[Sequence[Optional[int]]] = None
) -> Tuple[np.ndarray, np.ndarray, Optional[Sequence[str]]]:
    """The images of a data set that belong to a part of it.

    Args:
        dataset (BaseDataset): The data set of MMPretrain, loaded.
        labels (np.ndarray): The label of each of its images, integers
            ``(N, )`` of at least 0.
        label (str): ``'fine'`` for these labels, ``'coarse'`` for the
            superclasses. Defaults to ``'fine'``.
        classes (str | Sequence[str | int], optional): The classes to take, or
            a file with the name of one in each line. Defaults to None, all.
        per_class (tuple[int, int | None], optional): The images to take of
            each, see :func:`select_per_class`. Defaults to None, all.

    Returns:
        tuple: The indices of the images, ``(M, )``, ascending; their labels
        ``(M, )``; and the names of the classes by label, None if the data set
        knows none.

    Raises:
        ConfigError: If the data set has no such labels or classes, or too few
            images of one.
    """
    names = dataset.metainfo.get('classes')
    if label == 'coarse':
        coarse, names = _coarse_labels(dataset)
        labels = coarse[labels]
    if isinstance(classes, str):
        classes = _read_names(classes)
    if not names and are_names(classes):
        # Data without names get them, as in MMPretrain.
        names = tuple(classes)
    elif classes is not None:
        size = max(len(names or ()), labels.max(initial=-1) + 1)
        chosen = find_classes(classes, names, size)
        table = np.full(size, -1)
        table[chosen] = np.arange(len(chosen))
        labels = table[labels]
        names = tuple(
            names[number] if number < len(names) else str(number)
            for number in chosen) if names else names
    numbers = np.flatnonzero(labels >= 0)
    if per_class is not None:
        numbers = numbers[select_per_class(labels[numbers], *per_class, names
                                           or ())]
    return numbers, labels[numbers], names


def find_classes(classes: Sequence[Union[str, int]],
                 names: Optional[Sequence[str]], size: int) -> List[int]:
    """The numbers of some classes, in their order, by names or numbers, among
    so many, whose names may be known. Raise if there is no such class, or one
    is named twice."""
    setting = 'classes of InMemoryDataset'
    if not isinstance(classes, (list, tuple)) or not classes:
        raise ConfigError(f'{setting} must be a list of names or numbers of '
                          f'classes; got {classes!r}')
    names = list(names or ())
    found = []
    for value in classes:
        if type(value) is int and 0 <= value < size:
            number = value
        elif isinstance(value, str) and value in names:
            number = names.index(value)
        else:
            hint = f'there are the numbers 0 to {size - 1}'
            if isinstance(value, str) and names:
                hint = nearest(value, names) or (
                    f'there are {", ".join(names[:5])}'
                    f'{", ..." if len(names) > 5 else ""}; to rename them, '
                    'set metainfo=dict(classes=...)')
            raise ConfigError(f'{setting} has {value!r}, which is no class of '
                              f'these data; {hint}')
        if number in found:
            name = f' ({names[number]})' if number < len(names) else ''
            raise ConfigError(f'{setting} has class {number}{name} twice; got '
                              f'{list(classes)}')
        found.append(number)
    return found


def are_names(classes: Any) -> bool:
    """Whether classes are told by their names: a list of texts, not empty."""
    return bool(classes) and isinstance(classes, (list, tuple)) and all(
        isinstance(name, str) for name in classes)


def _read_names(path: str) -> List[str]:
    try:
        return list_from_file(expanduser(path))
    except OSError as error:
        raise ConfigError('classes of InMemoryDataset, if a text, is a file '
                          f'of names, but {one_line(error)}') from error


def _coarse_labels(dataset: Any) -> Tuple[np.ndarray, Tuple[str, ...]]:
    """The superclass of each class, and the names of the superclasses."""
    if not isinstance(dataset, CIFAR100):
        raise ConfigError(
            "label of InMemoryDataset is 'coarse', but these data have no "
            "coarse labels, as CIFAR100 has; use 'fine'")

    def read(name: str, md5: Optional[str]) -> dict:
        path = join_path(dataset.data_prefix['root'], dataset.base_folder,
                         name)
        if not exists(path) or md5 and not check_md5(path, md5):
            raise ConfigError(f'{path} is missing or damaged')
        return pickle.loads(get(path), encoding='latin1')

    files = (
        dataset.train_list if dataset.split == 'train' else dataset.test_list)
    table = np.zeros(len(dataset.METAINFO['classes']), np.int64)
    for file in files:
        entry = read(*file)
        table[entry['fine_labels']] = entry['coarse_labels']
    meta = read(dataset.meta['filename'], dataset.meta['md5'])
    return table, tuple(meta['coarse_label_names'])


def check_per_class(setting: str, value: object) -> None:
    """Raise unless a value says which images of each class to take: a pair of
    whole numbers ``(start, stop)`` with ``0 <= start < stop``; ``stop`` may be
    None."""
    pair = value if isinstance(value, (list, tuple)) else ()
    if len(pair) == 2:
        start, stop = pair
        whole = type(start) is int and (stop is None or type(stop) is int)
        if whole and start >= 0 and (stop is None or start < stop):
            return
    raise ConfigError(
        f'{setting} must be two whole numbers (start, stop), 0 <= start < '
        f'stop, of which stop may be None; got {value!r}')


def select_per_class(labels: np.ndarray, start: int, stop: Optional[int],
                     classes: Sequence[str]) -> np.ndarray:
    """The indices ``(M, )``, ascending, of the images of each class from
    number ``start`` on, 0-based, to before ``stop``, None for all that follow.

    The images of a class are counted in the order of the data. Two selections
    of which the numbers do not overlap share no image, therefore, whatever the
    order of the classes. Labels beyond the names of the classes count as
    classes, too. Raise if a class has fewer than ``stop`` images, or none from
    ``start`` on.
    """
    counts = np.bincount(labels, minlength=len(classes))
    need = start + 1 if stop is None else stop
    for label in np.flatnonzero(counts < need)[:1]:
        name = repr(classes[label]) if label < len(classes) else label
        raise ConfigError(
            f'per_class ({start}, {stop}) needs {need} images of each class, '
            f'but there are {counts[label]} of class {name}')
    # The number of each image within its class: sorted by class, it is the
    # distance from the first of the class.
    order = np.argsort(labels, kind='stable')
    first = np.cumsum(counts) - counts
    number = np.empty(len(labels), dtype=np.int64)
    number[order] = np.arange(len(labels)) - first[labels[order]]
    chosen = number >= start
    if stop is not None:
        chosen &= number < stop
    return np.flatnonzero(chosen)
