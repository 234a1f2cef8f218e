"""Leaving no folder behind where there was none."""
import os
import os.path as osp
from typing import List

__all__ = ['missing_folders', 'remove_empty']


def missing_folders(path: str) -> List[str]:
    """The folders that making a folder would make.

    Args:
        path (str): The folder.

    Returns:
        list[str]: Absolute paths, deepest first; none for an address such as
        ``s3://bucket``.
    """
    if '://' in path:
        return []
    path = osp.abspath(path)
    missing = []
    while not osp.lexists(path):
        missing.append(path)
        path = osp.dirname(path)
    return missing


def remove_empty(folders: List[str]) -> None:
    """Remove those of some folders that are empty.

    Args:
        folders (list[str]): Paths, deepest first.
    """
    for folder in folders:
        if osp.isdir(folder) and not os.listdir(folder):
            os.rmdir(folder)
