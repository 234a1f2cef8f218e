"""The files of an export."""
import io
import json
import os
import os.path as osp
from collections import OrderedDict
from typing import Any, Dict, Mapping

import torch
from torch import Tensor

from mcod_plugin.utils.plain import to_plain

__all__ = [
    'file_sizes', 'to_checkpoint', 'to_json', 'to_safetensors', 'write_bytes'
]


def write_bytes(path: str, data: bytes) -> None:
    """Write a file.

    The writers of the libraries tell a full disk each in its own way; here it
    is an ``OSError``.

    Args:
        path (str): The file, in a folder that nobody else knows of yet.
        data (bytes): All of it.
    """
    with open(path, 'wb') as file:
        file.write(data)


def to_json(value: Any) -> bytes:
    """Plain data as JSON.

    Args:
        value (Any): The data; tuples become lists.

    Returns:
        bytes: The text.
    """
    return (json.dumps(value, indent=2, ensure_ascii=False) +
            '\n').encode('utf-8')


def to_checkpoint(state_dict: Mapping[str, Tensor], meta: dict) -> bytes:
    """Weights as a checkpoint that ``torch.load(weights_only=True)`` opens.

    Args:
        state_dict (Mapping[str, Tensor]): The weights.
        meta (dict): What the checkpoint tells of itself.

    Returns:
        bytes: The file, with ``state_dict`` and ``meta``.
    """
    # A copy without the gaps that other memory formats leave. The versions of
    # the parts, which some of them look for, stay with it.
    weights = OrderedDict(
        (key, value.detach().clone(memory_format=torch.contiguous_format))
        for key, value in state_dict.items())
    weights._metadata = getattr(state_dict, '_metadata', OrderedDict())
    buffer = io.BytesIO()
    torch.save(dict(state_dict=weights, meta=to_plain(meta)), buffer)
    return buffer.getvalue()


def to_safetensors(state_dict: Mapping[str, Tensor]) -> bytes:
    """Weights as a safetensors file.

    Args:
        state_dict (Mapping[str, Tensor]): The weights.

    Returns:
        bytes: The file.
    """
    from safetensors.torch import save

    # It takes no tensors that share memory or have gaps.
    weights: Dict[str, Tensor] = {
        key: value.detach().cpu().contiguous().clone()
        for key, value in state_dict.items()
    }
    return save(weights, metadata={'format': 'pt'})


def file_sizes(folder: str) -> Dict[str, int]:
    """The files of a folder.

    Args:
        folder (str): The folder; folders in it do not count.

    Returns:
        dict[str, int]: Size in bytes of each file, sorted by name.
    """
    return {
        file: osp.getsize(osp.join(folder, file))
        for file in sorted(os.listdir(folder))
        if osp.isfile(osp.join(folder, file))
    }
