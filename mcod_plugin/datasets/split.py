"""Parts of a data set that hold equally many images of each class."""
from typing import Optional, Sequence

import numpy as np

from mcod_plugin.errors import ConfigError

__all__ = ['check_per_class', 'select_per_class']


def check_per_class(setting: str, value: object) -> None:
    """Raise unless ``value`` says which images of each class to take.

    Args:
        setting (str): The setting, as the user types it.
        value (Any): What was given.

    Raises:
        ConfigError: If it is no pair of whole numbers ``(start, stop)`` with
            ``0 <= start < stop``; ``stop`` may be None.
    """
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
    """Of each class, the images number ``start`` to ``stop``.

    The images of a class are counted in the order of the data. Two selections
    of which the numbers do not overlap share no image, therefore, whatever
    the order of the classes.

    Args:
        labels (np.ndarray): The class of each image, integers ``(N, )`` of at
            least 0.
        start (int): Number of the first image that is taken of each class,
            0-based.
        stop (int | None): Number of the first that is not taken any more;
            None takes all that follow.
        classes (Sequence[str]): The names of the classes, by label. Labels
            beyond them count as classes, too.

    Returns:
        np.ndarray: The indices of the images, ``(M, )``, ascending.

    Raises:
        ConfigError: If a class has fewer than ``stop`` images, or none from
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
