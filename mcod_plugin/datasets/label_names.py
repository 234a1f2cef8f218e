"""What the labels of data sets are called."""
from typing import Any, Iterator, NamedTuple, Optional, Sequence, Tuple

__all__ = ['LabelNames', 'label_names', 'name_mismatches', 'trained_names']

# The most names of each kind that a message lists.
LISTED = 5

Names = Optional[Tuple[str, ...]]


class LabelNames(NamedTuple):
    """The names of some labels, by label.

    Attributes:
        classes (tuple[str], optional): What the data call their classes.
        folders (tuple[str], optional): The folders that the labels were
            counted by, where a data set is one of folders. Names that a
            config states say nothing about these.
    """

    classes: Names = None
    folders: Names = None


def label_names(dataset: Any) -> Iterator[LabelNames]:
    """The label names of each data set of MMPretrain within a wrapper that has
    any; the first alone if the wrapper is told to ignore that their classes
    differ."""
    if hasattr(dataset, 'datasets'):
        parts = list(dataset.datasets)
        if 'classes' in getattr(dataset, 'ignore_keys', ()):
            parts = parts[:1]
        for part in parts:
            yield from label_names(part)
    elif hasattr(dataset, 'dataset'):
        yield from label_names(dataset.dataset)
    else:
        classes = _names(_get(getattr(dataset, 'metainfo', None), 'classes'))
        folders = getattr(dataset, 'folder_to_idx', None)
        if isinstance(folders, dict):
            folders = sorted(folders, key=folders.get)
        folders = _names(folders)
        if classes or folders:
            yield LabelNames(classes, folders)


def trained_names(checkpoint: dict) -> Names:
    """The class names that a checkpoint was trained with; None if it does not
    tell."""
    meta = _get(checkpoint.get('meta'), 'dataset_meta')
    return _names(_get(meta, 'classes'))


def name_mismatches(given: Optional[Sequence[str]],
                wanted: Optional[Sequence[str]]) -> str:
    """A phrase about how label names, in the order of the labels, differ from
    what they should be; empty if they are the same, or one of them is not
    known."""
    if not given or not wanted or tuple(given) == tuple(wanted):
        return ''
    lacks = [name for name in wanted if name not in set(given)]
    adds = [name for name in given if name not in set(wanted)]
    found = []
    if lacks:
        found.append(f'lacks {_listed(lacks)}')
    if adds:
        found.append(f'has {_listed(adds)} besides')
    if not found:
        moved = [
            f'{label} is {one}, not {other}'
            for label, (one, other) in enumerate(zip(given, wanted))
            if one != other
        ]
        found.append(f'has them in another order (label {_listed(moved)})'
                     if moved else 'has one of them more than once')
    return ' and '.join(found)


def _listed(texts: Sequence[str]) -> str:
    more = len(texts) - LISTED
    listed = ', '.join(texts[:LISTED])
    return listed + (f' and {more} more' if more > 0 else '')


def _get(mapping: Any, key: str) -> Any:
    return mapping.get(key) if isinstance(mapping, dict) else None


def _names(value: Any) -> Names:
    """Names as they can be compared: files have other containers."""
    if value is None or isinstance(value, str):
        return None
    try:
        return tuple(map(str, value)) or None
    except TypeError:
        return None
