"""Reading checkpoints as data, and comparing state dicts."""
import os
import os.path as osp
import pickle
import re
import warnings
import zipfile
from http.client import HTTPException
from typing import (Any, Callable, Dict, Iterable, List, Mapping, Optional,
                    Union)
from urllib.parse import urlparse

import torch
from torch import Tensor

from mcod_plugin.errors import ConfigError, one_line

__all__ = [
    'DamagedCheckpoint', 'last_checkpoint', 'numbered_checkpoints',
    'read_checkpoint', 'resumable_checkpoints', 'shape_of',
    'state_dict_mismatches'
]


class DamagedCheckpoint(ConfigError):
    """A checkpoint that is incomplete or has changed since it was written."""


def read_checkpoint(filename: str,
                    map_location: Union[str, Callable] = 'cpu') -> dict:
    """Open a checkpoint without running any code that it may hold.

    The checksums of all that it holds are compared, which PyTorch does not
    do; files of the format before PyTorch 1.6 have none.

    Args:
        filename (str): A local path or an ``http(s)`` address.
        map_location (str | Callable): See :func:`torch.load`.
            Defaults to ``'cpu'``.

    Returns:
        dict: The checkpoint.

    Raises:
        DamagedCheckpoint: If it is incomplete, has changed since it was
            written, or is no checkpoint at all.
        ConfigError: If the file is missing, cannot be fetched, holds more
            than data, or is not made as a checkpoint is.
    """
    remote = filename.startswith(('http://', 'https://'))
    if not remote and not os.path.isfile(filename):
        raise ConfigError(f'checkpoint {filename}: there is no such file')
    try:
        with warnings.catch_warnings():
            # They advise on files that are no checkpoints.
            warnings.simplefilter('ignore')
            if remote:
                checkpoint = torch.hub.load_state_dict_from_url(
                    filename, map_location=map_location, weights_only=True)
                _check_sums(
                    osp.join(torch.hub.get_dir(), 'checkpoints',
                             osp.basename(urlparse(filename).path)))
            else:
                _check_sums(filename)
                checkpoint = torch.load(
                    filename, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        # PyTorch's own text goes on with advice to run the code all the same.
        raise ConfigError(
            f'checkpoint {filename} is damaged or holds a pickle payload '
            '(more than tensors and plain containers), as that of MMEngine\'s '
            'own CheckpointHook; it was refused, and nothing of it was '
            'executed; if you trust it, copy its weights: torch.save('
            'torch.load(FILE, weights_only=False)["state_dict"], NEW_FILE)'
        ) from error
    except Exception as error:
        if remote and isinstance(error, (OSError, HTTPException)):
            raise ConfigError(f'checkpoint {filename} cannot be fetched '
                              f'({one_line(error)})') from error
        # Bytes at random make the reader fail in any way. Of its text the
        # first sentence tells how; advice follows.
        reason = str(error).partition('. ')[0] or type(error).__name__
        raise DamagedCheckpoint(
            f'checkpoint {filename} is truncated, damaged '
            f'or no checkpoint at all ({reason})') from error
    if not isinstance(checkpoint, dict):
        raise ConfigError(f'checkpoint {filename} must hold a dict; got a '
                          f'{type(checkpoint).__name__}')
    _check_form(filename, checkpoint)
    return checkpoint


def _check_form(filename: str, checkpoint: dict) -> None:
    """Raise unless a checkpoint is made as MMEngine's, or holds weights
    only."""
    # The parts of MMEngine's that others look into.
    for key in ('state_dict', 'meta', 'message_hub'):
        value = checkpoint.get(key)
        if 'state_dict' in checkpoint and not isinstance(value, dict) and (
                value is not None or key == 'state_dict'):
            raise ConfigError(f'checkpoint {filename}: {key} must be a dict; '
                              f'got {type(value).__name__}')
    for key in checkpoint.get('state_dict', checkpoint):
        if not isinstance(key, str):
            raise ConfigError(f'checkpoint {filename}: the names of weights '
                              f'must be texts; got {key!r}')


def _check_sums(path: str) -> None:
    """Raise unless all that an archive holds is as it was written."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(f'the checksum of {damaged} is wrong')


def last_checkpoint(work_dir: str) -> Optional[str]:
    """The name of the checkpoint that was saved last by a run, None if there
    is no record of one. The work directory may have been moved since, so that
    only the name counts of the path that it holds."""
    try:
        with open(osp.join(work_dir, 'last_checkpoint')) as file:
            return osp.basename(file.read().strip()) or None
    except (OSError, UnicodeDecodeError):
        return None


def numbered_checkpoints(
        folder: str,
        pattern: str = r'(?:epoch|iter)_(\d+)\.pth') -> Dict[int, str]:
    """The paths of the checkpoints in a folder, which need not exist, by the
    number of finished epochs or iterations. That is a group of the pattern of
    their names, by default MMEngine's."""
    names = os.listdir(folder) if osp.isdir(folder) else ()
    matches = filter(None, (re.fullmatch(pattern, name) for name in names))
    return {int(match[1]): osp.join(folder, match[0]) for match in matches}


def resumable_checkpoints(folder: str, last: Optional[str],
                          template: str) -> List[str]:
    """The paths of the checkpoints in a folder that a run can go on from, in
    the order in which to try them: the one of the name ``last``, which was
    saved last, if it is there, those before it from the newest on, and what
    may have been saved after it. The template of their names is such as
    ``'epoch_{}.pth'``."""
    before, after = re.split(r'\{[^}]*\}', template, maxsplit=1)
    pattern = rf'{re.escape(before)}(\d+){re.escape(after)}'
    found = numbered_checkpoints(folder, pattern)
    match = re.fullmatch(pattern, last or '')
    most = int(match[1]) if match else float('inf')
    paths = [
        found[number] for number in sorted(
            found, key=lambda number: (number > most, -number))
    ]
    first = osp.join(folder, last or '')
    if osp.isfile(first):
        paths = [first, *(path for path in paths if path != first)]
    return paths


def state_dict_mismatches(wanted: Mapping[str, Any], given: Mapping[str,
                                                           Any]) -> List[str]:
    """How a state dict differs from that of a module in keys and shapes, in
    phrases such as ``'lacks head (2 keys such as head.fc.weight)'``; none if
    it fits."""
    wanted = {key: shape_of(value) for key, value in wanted.items()}
    given = {key: shape_of(value) for key, value in given.items()}
    faults = []
    for what, keys in (('lacks', wanted.keys() - given.keys()),
                       ('adds', given.keys() - wanted.keys())):
        if keys:
            faults.append(f'{what} {_summary(keys)}')
    faults += [
        f'has {key} of shape {given[key]} instead of {wanted[key]}'
        for key in sorted(wanted.keys() & given.keys())
        if given[key] != wanted[key]
    ][:1]
    return faults


def shape_of(value: Any) -> Any:
    """The shape of a tensor as a tuple; of anything else its type's name."""
    return tuple(value.shape) if isinstance(value,
                                            Tensor) else type(value).__name__


def branch_of(key: str) -> str:
    """The name of the branch that a key of a cohort's state dict is of; empty
    for what is of no branch."""
    top, _, rest = key.partition('.')
    return rest.partition('.')[0] if top == 'branches' else ''


def _summary(keys: Iterable[str]) -> str:
    """Keys by part, and by branch in a cohort, as ``branches.vgg (12 keys
    such as branches.vgg.backbone.conv)``."""
    groups: Dict[str, List[str]] = {}
    for key in sorted(keys):
        parts = key.split('.')
        group = '.'.join(parts[:2]) if parts[0] == 'branches' else parts[0]
        groups.setdefault(group, []).append(key)
    return ', '.join(f'{group} ({len(members)} keys such as {members[0]})'
                     for group, members in groups.items())
