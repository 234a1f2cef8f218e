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
    """The config of a data loader's data set that others wrap; empty if there
    is none."""
    return [{}, *dataset_layers(loader.get('dataset'))][-1]


def pipeline_of(loader: dict) -> List[dict]:
    """The transforms of a data loader's data set, or of the one that this
    wraps."""
    for dataset in dataset_layers(loader.get('dataset')):
        if dataset.get('pipeline'):
            return list(dataset['pipeline'])
    return []


def view_pipelines(pipeline: Sequence[dict]) -> Dict[str, List[dict]]:
    """The transforms, from the first to the last, of branches that have views
    of their own; empty if all have the same images. The last transform of the
    pipeline is a :class:`BranchViews` then, or another one that has
    ``pipelines`` by branch."""
    last = pipeline[-1] if pipeline else {}
    pipelines = last.get('pipelines') if isinstance(last, Mapping) else None
    if not isinstance(pipelines, Mapping):
        return {}
    return {
        name: [*pipeline[:-1], *steps]
        for name, steps in pipelines.items()
    }


def channel_order(pipeline: Sequence[dict]) -> str:
    """The order of the colours of the images that a pipeline gives: ``'BGR'``
    of image files, as OpenCV reads them, ``'RGB'`` of data sets that hold the
    pixels."""
    loads = any(
        is_part(transform, LoadImageFromFile)
        for _, transform in walk(pipeline))
    return 'BGR' if loads else 'RGB'
