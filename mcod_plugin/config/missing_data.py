"""Telling what to do about a data set that cannot be used."""
import os.path as osp
from contextlib import contextmanager
from traceback import walk_tb
from typing import Any, Iterator

from mcod_plugin.errors import ConfigError
from mcod_plugin.utils.files import missing_folders, remove_empty

__all__ = ['explain_missing_data']


@contextmanager
def explain_missing_data(dataset: dict) -> Iterator[None]:
    """Turn the error of a missing or damaged data set into one line that
    tells where it was looked for and where to get it.

    Args:
        dataset (dict): The data set's config.

    Raises:
        ConfigError: If the data cannot be loaded. A folder that a download
            in vain has made is removed again. A wrong setting of the data set
            is raised as it is.
    """
    made = missing_folders(dataset.get('data_root') or '.')
    try:
        yield
    except (AssertionError, OSError, RuntimeError) as error:
        loading = _loading(error)
        if loading is None:
            raise
        remove_empty(made)
        root = _root(loading)
        place = osp.join(root, getattr(loading, 'base_folder', ''))
        state = 'damaged' if osp.exists(place) else 'missing'
        text = (f'data set {type(loading).__name__} is {state}: looked for '
                f'{place}')
        url = getattr(loading, 'url', None)
        if url:
            text += f'; get {url} and unpack it into {root}'
        reason = ' '.join(str(error).split()) or type(error).__name__
        raise ConfigError(f'{text} ({reason})') from error


def _loading(error: BaseException) -> Any:
    """The data set that was reading its data when an error was raised."""
    for frame, _ in walk_tb(error.__traceback__):
        if frame.f_code.co_name == 'load_data_list':
            return frame.f_locals.get('self')
    return None


def _root(dataset: Any) -> str:
    prefix = dataset.data_prefix or {}
    for root in (prefix.get('root'), prefix.get('img_path'),
                 prefix.get('img_prefix'), dataset.data_root):
        if root:
            return root if '://' in root else osp.abspath(root)
    return osp.abspath(dataset.ann_file or '.')
