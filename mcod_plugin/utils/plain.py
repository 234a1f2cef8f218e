"""Checkpoints hold data, never code.

``torch.load(weights_only=True)`` opens a file only if it is made of tensors
and Python's own containers and values. What MMEngine and its users put beside
the weights is not all like that: histories of losses, NumPy numbers, paths.
Here it is turned into such data, and back where a class is needed again.
"""
from enum import Enum
from pathlib import PurePath
from typing import Any, Collection, Mapping, NoReturn, Sequence

import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import HistoryBuffer

__all__ = ['to_plain', 'from_plain', 'to_host']

TAG = '__type__'
HISTORY_KEYS = {TAG, 'log_history', 'count_history', 'max_length'}
BYTES_KEYS = {TAG, 'data'}


def to_plain(value: Any) -> Any:
    """Turn a structure into one that any ``weights_only`` load opens.

    =============================== =====================================
    given                           becomes
    =============================== =====================================
    tensor, str, number, bool, None the same
    mapping, MMEngine config        dict
    tuple, named tuple              tuple
    list                            list
    set                             sorted list
    NumPy scalar                    Python value
    NumPy array                     tensor; of strings: list
    enum                            its value
    path, torch dtype or device     str
    ``HistoryBuffer``, bytes        tagged dict, see :func:`from_plain`
    =============================== =====================================

    Only what stands beside the weights should go through here: the version
    notes that a module's ``state_dict()`` carries as an attribute are lost.

    Args:
        value (Any): The structure. It is left as it is; tensors are shared
            with the result, not copied.

    Returns:
        Any: The plain structure.

    Raises:
        TypeError: If something in it is none of the above. The message names
            the place, as in ``message_hub.runtime_info.foo``.
    """
    return _to_plain(value, '')


def from_plain(value: Any) -> Any:
    """Turn the tagged dicts of :func:`to_plain` back into what they were.

    - ``dict(__type__='HistoryBuffer', log_history=<float64 tensor>,
      count_history=<tensor>, max_length=<int>)``: a ``HistoryBuffer``.
    - ``dict(__type__='bytes', data=<uint8 tensor>)``: bytes.

    Args:
        value (Any): The plain structure; its tensors may be on any device.

    Returns:
        Any: The structure with these objects in place, all else being equal.
    """
    if type(value) is dict:
        if value.keys() == HISTORY_KEYS and value[TAG] == 'HistoryBuffer':
            return HistoryBuffer(
                log_history=value['log_history'].cpu().numpy(),
                count_history=value['count_history'].cpu().numpy(),
                max_length=value['max_length'])
        if value.keys() == BYTES_KEYS and value[TAG] == 'bytes':
            return value['data'].cpu().numpy().tobytes()
        return {key: from_plain(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(from_plain(item) for item in value)
    return value


def _to_plain(value: Any, path: str) -> Any:
    # The order matters: an enum or a NumPy number may be an int or a float
    # at the same time, and pickle would still name its class.
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Enum):
        return _to_plain(value.value, path)
    if isinstance(value, np.generic):
        item = value.item()
        # those that Python has no match for, such as longdouble
        if isinstance(item, np.generic):
            _refuse(value, path)
        return _to_plain(item, path)
    for kind in (int, float, str):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, torch.Tensor):
        known = type(value) in (torch.Tensor, torch.nn.Parameter)
        return value if known else value.as_subclass(torch.Tensor)
    if isinstance(value, np.ndarray):
        return _array_to_plain(value, path)
    if isinstance(value, HistoryBuffer):
        logs, counts = value.data
        logs = _array_to_plain(logs.astype(np.float64), path)
        counts = _array_to_plain(counts, path)
        return {
            TAG: 'HistoryBuffer',
            'log_history': logs,
            'count_history': counts,
            'max_length': int(value.max_length)
        }
    if isinstance(value, bytes):
        # PyTorch refuses empty bytes, and before 2.3 all others as well.
        return {TAG: 'bytes', 'data': torch.tensor(list(value)).byte()}
    if isinstance(value, (PurePath, torch.dtype, torch.device)):
        return str(value)
    if isinstance(value, (Config, ConfigDict)):
        value = value.to_dict()
    if isinstance(value, Mapping):
        return _mapping_to_plain(value, path)
    if isinstance(value, (list, tuple)):
        items = _items_to_plain(value, path)
        return tuple(items) if isinstance(value, tuple) else items
    if isinstance(value, (set, frozenset)):
        items = _items_to_plain(value, path)
        try:
            return sorted(items)
        except TypeError:  # items of several types
            return sorted(items, key=repr)
    _refuse(value, path)


def _items_to_plain(values: Collection, path: str) -> list:
    return [
        _to_plain(item, f'{path}[{index}]')
        for index, item in enumerate(values)
    ]


def _mapping_to_plain(value: Mapping, path: str) -> dict:
    plain = {}
    for key, item in value.items():
        below = f'{path}.{key}' if path else str(key)
        plain_key = _to_plain(key, below)
        try:
            taken = plain_key in plain
        except TypeError:  # not hashable any more
            _refuse(key, below, 'key ')
        if taken:
            raise TypeError(f'{below}: two keys of this mapping become '
                            f'{plain_key!r} as plain data')
        plain[plain_key] = _to_plain(item, below)
    return plain


def _array_to_plain(value: np.ndarray, path: str) -> Any:
    kind, size = value.dtype.kind, value.dtype.itemsize
    if kind in 'US':
        return _to_plain(value.tolist(), path)
    if kind == 'u' and size in (2, 4):
        # Older PyTorch has no such numbers; states of random generators do.
        value = value.astype(np.int64)
    elif kind not in 'biufc' or (kind == 'u' and size > 1):
        _refuse(value, path, f'{value.dtype} ')
    try:
        # a copy, in the machine's byte order and without negative strides
        return torch.from_numpy(
            np.array(value, value.dtype.newbyteorder('='), order='C'))
    except TypeError:  # longdouble
        _refuse(value, path, f'{value.dtype} ')


def _refuse(value: Any, path: str, what: str = '') -> NoReturn:
    raise TypeError(f'{path or "the value"}: {what}{type(value)} is not plain '
                    'data, so it cannot go into a checkpoint')


def to_host(values: Sequence[Any]) -> list:
    """Turn the tensors among some values, which are scalars, into numbers, in
    one transfer for each kind of them. What else has an ``item()`` is turned
    by it; the rest stays as it is."""
    host = [
        value.item() if isinstance(value, (np.ndarray, np.generic)) else value
        for value in values
    ]
    kinds = {}
    for index, value in enumerate(host):
        if isinstance(value, torch.Tensor):
            kinds.setdefault((value.device, value.dtype), []).append(index)
    for places in kinds.values():
        numbers = torch.stack([host[index] for index in places]).tolist()
        for index, number in zip(places, numbers):
            host[index] = number
    return host
