"""Telling what to do about a data set that cannot be used."""
import os.path as osp
from contextlib import contextmanager
from typing import Any, Callable, Iterator, Mapping, Optional

from mmengine.dataset import BaseDataset

from mcod_plugin.errors import ConfigError, one_line
from mcod_plugin.registry import DATASETS
from mcod_plugin.utils.files import missing_folders, remove_empty
from .explain import arguments
from .parts import walk

__all__ = ['explain_missing_data']

# What a data set raises whose files are missing or damaged.
LOADING_ERRORS = (AssertionError, OSError, RuntimeError)


@contextmanager
def explain_missing_data(dataset: dict) -> Iterator[None]:
    """Turn the error of a missing or damaged data set, or of one without data,
    into one line that tells where it was looked for and where to get it. A
    folder that a download in vain has made is removed again. A wrong setting
    of the data set is raised as it is."""
    made = missing_folders(dataset.get('data_root') or '.')
    try:
        yield
    except ConfigError:
        raise
    except ValueError as error:
        # MMEngine joins the pieces of what there is, in whatever wrapper.
        empty = _find(dataset, _is_empty)
        if empty is None:
            raise
        raise ConfigError(
            f'data set {type(empty).__name__} is empty: its files hold no '
            'image, or its indices leave none') from error
    except LOADING_ERRORS as error:
        unloadable = _find(dataset, _is_unloadable)
        if unloadable is None:
            raise
        remove_empty(made)
        root = _root(unloadable)
        place = osp.join(root, getattr(unloadable, 'base_folder', ''))
        state = 'damaged' if osp.exists(place) else 'missing'
        text = (f'data set {type(unloadable).__name__} is {state}: looked for '
                f'{place}')
        url = getattr(unloadable, 'url', None)
        if url:
            text += f'; get {url} and unpack it into {root}'
        reason = one_line(error) or type(error).__name__
        raise ConfigError(f'{text} ({reason})') from error


def _find(cfg: dict, is_faulty: Callable[[BaseDataset],
                                         bool]) -> Optional[BaseDataset]:
    """The data set within a config whose data have a fault.

    An error does not tell whether settings or data are to blame. So each data
    set is built without its data, where only settings matter, and then asked
    to load them.
    """
    for _, part in walk(cfg):
        dataset = _without_data(part) if isinstance(part, Mapping) else None
        if dataset is not None and is_faulty(dataset):
            return dataset
    return None


def _is_unloadable(dataset: BaseDataset) -> bool:
    try:
        dataset.full_init()
    except LOADING_ERRORS:
        return True
    return False


def _is_empty(dataset: BaseDataset) -> bool:
    try:
        dataset.serialize_data = False
        dataset.full_init()
        return len(dataset) == 0
    except Exception:
        return False


def _without_data(cfg: Mapping) -> Optional[BaseDataset]:
    """A data set that has not loaded its data; None of a config that builds
    none."""
    # One that is held in memory names the other as its source.
    kind = cfg.get('source') or cfg.get('type')
    with DATASETS.switch_scope_and_registry(None) as registry:
        cls: Any = registry.get(kind) if isinstance(kind, str) else kind
        if not isinstance(cls, type) or not issubclass(cls, BaseDataset):
            return None
        known = arguments(cls)
        settings = {key: value for key, value in cfg.items() if key in known}
        settings['lazy_init'] = True
        if 'download' in known:
            # It was in vain.
            settings['download'] = False
        try:
            return cls(**settings)
        except Exception:
            # A mistake in its settings, which is raised as it is.
            return None


def _root(dataset: BaseDataset) -> str:
    prefix = dataset.data_prefix or {}
    for root in (prefix.get('root'), prefix.get('img_path'),
                 prefix.get('img_prefix'), dataset.data_root):
        if root:
            return root if '://' in root else osp.abspath(root)
    return osp.abspath(dataset.ann_file or '.')
