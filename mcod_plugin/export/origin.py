"""What a checkpoint tells of a branch that is taken out of it."""
import os.path as osp
from typing import Any, Dict, List, Optional

from mcod_plugin.datasets.label_names import name_mismatches, trained_names
from mcod_plugin.errors import ConfigError
from mcod_plugin.utils.machine import describe_machine
from .images import Images

__all__ = ['class_names', 'origin']


def class_names(content: dict, images: Images) -> Optional[List[str]]:
    """The names of the classes.

    Args:
        content (dict): What the checkpoint holds.
        images (Images): Images of the data set.

    Returns:
        list[str] | None: The names that the training has noted, else those of
        the data set; None if neither has any.

    Raises:
        ConfigError: If they differ. Labels are their numbers, so what the
            images say of the accuracy would be wrong.
    """
    trained = trained_names(content)
    faults = name_mismatches(images.classes, trained)
    if faults:
        raise ConfigError(f'{images.source}: the data must have the classes '
                          f'of the checkpoint ({len(trained)}) in the same '
                          f'order; of {len(images.classes)} it {faults}')
    found = trained or images.classes
    return [str(name) for name in found] if found else None


def origin(cfg: Any, checkpoint: str, content: dict) -> Dict[str, Any]:
    """Where a branch comes from.

    Args:
        cfg (Config): The config of its cohort.
        checkpoint (str): Path of the checkpoint.
        content (dict): What the checkpoint holds.

    Returns:
        dict[str, Any]: Names of both files, ``versions`` of the libraries
        that take it out, and ``epoch``, ``iter`` and ``seed`` of the training
        as far as they are known.
    """
    meta = content.get('meta') or {}
    found = dict(
        config=osp.basename(cfg.filename or ''),
        checkpoint=osp.basename(checkpoint),
        versions=describe_machine()['versions'])
    for key in ('epoch', 'iter', 'seed'):
        if isinstance(meta.get(key), int):
            found[key] = meta[key]
    return found
