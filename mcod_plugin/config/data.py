"""The data that a config names."""
from typing import Any, Dict, Iterator, List, Mapping, Sequence

from mmcv.transforms import LoadImageFromFile

from .parts import is_part, walk

__all__ = [
    'channel_order', 'dataset_layers', 'innermost_dataset', 'pipeline_of',
    'view_pipelines'
]


def dataset_layers(dataset: Any) -> Iterator[dict]:
    """The config of a data set and of those within, as in a ``RepeatDataset``,
    the outermost first; of several beside each other the first. Nothing if it
    is no config."""
    while isinstance(dataset, dict):
        yield dataset
        dataset = dataset.get('dataset') or dataset.get('datasets') or None
        if isinstance(dataset, (list, tuple)):
            dataset = dataset[0]


def innermost_dataset(loader: dict) -> dict:
    """The data set that others wrap.

    Args:
        loader (dict): The config of a data loader.

    Returns:
        dict: The config of the data set; empty if there is none.
    """
    return [{}, *dataset_layers(loader.get('dataset'))][-1]


def pipeline_of(loader: dict) -> List[dict]:
    """The transforms of a data loader's config.

    Args:
        loader (dict): The config.

    Returns:
        list[dict]: Those of its data set, or of the one that this wraps.
    """
    for dataset in dataset_layers(loader.get('dataset')):
        if dataset.get('pipeline'):
            return list(dataset['pipeline'])
    return []


def view_pipelines(pipeline: Sequence[dict]) -> Dict[str, List[dict]]:
    """The pipelines of branches that have views of their own.

    Args:
        pipeline (Sequence[dict]): Configs of the transforms, of which the
            last may be a :class:`BranchViews`, or another one that has
            ``pipelines`` by branch.

    Returns:
        dict[str, list[dict]]: By branch the transforms from the first to the
        last; empty if all branches have the same images.
    """
    last = pipeline[-1] if pipeline else {}
    pipelines = last.get('pipelines') if isinstance(last, Mapping) else None
    if not isinstance(pipelines, Mapping):
        return {}
    return {
        name: [*pipeline[:-1], *steps]
        for name, steps in pipelines.items()
    }


def channel_order(pipeline: Sequence[dict]) -> str:
    """The order of the colours of the images that a pipeline gives.

    Args:
        pipeline (Sequence[dict]): Configs of its transforms.

    Returns:
        str: ``'BGR'`` of image files, as OpenCV reads them, ``'RGB'`` of data
        sets that hold the pixels.
    """
    loads = any(
        is_part(transform, LoadImageFromFile)
        for _, transform in walk(pipeline))
    return 'BGR' if loads else 'RGB'
