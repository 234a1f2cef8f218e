"""Telling what to do about a data set that cannot be used."""
import os
import os.path as osp
from contextlib import contextmanager
from typing import Iterator, List, Optional

from mmengine.registry import DATASETS

from mcod_plugin.errors import ConfigError

__all__ = ['explain_missing_data']


@contextmanager
def explain_missing_data(dataset: dict) -> Iterator[None]:
    """Turn the error of a missing or damaged data set into one line that
    tells where it was looked for and where to get it.

    Args:
        dataset (dict): The data set's config.

    Raises:
        ConfigError: If the data set cannot be built. Folders that a download
            made in vain are removed again.
    """
    root = dataset.get('data_root') or ''
    if '://' not in root:
        root = osp.abspath(root)
    made = _missing_folders(root)
    try:
        yield
    except (AssertionError, OSError, RuntimeError) as error:
        for folder in made:
            if osp.isdir(folder) and not os.listdir(folder):
                os.rmdir(folder)
        cls = _dataset_class(dataset)
        base = getattr(cls, 'base_folder', None)
        url = getattr(cls, 'url', None)
        text = (f'data set {dataset.get("type")} is missing or damaged: '
                f'looked for {osp.join(root, base) if base else root}')
        if url:
            text += f'; get {url} and unpack it into {root}'
        reason = ' '.join(str(error).split()) or type(error).__name__
        raise ConfigError(f'{text} ({reason})') from error


def _dataset_class(dataset: dict) -> Optional[type]:
    cls = dataset.get('type')
    return DATASETS.get(cls) if isinstance(cls, str) else cls


def _missing_folders(root: str) -> List[str]:
    """The folders on the way to a root that do not exist, deepest first."""
    missing = []
    while '://' not in root and not osp.exists(root):
        missing.append(root)
        root = osp.dirname(root)
    return missing
