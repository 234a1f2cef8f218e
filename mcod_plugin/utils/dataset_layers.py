from typing import Any, Iterator

__all__ = ['dataset_layers', 'innermost_dataset']


def dataset_layers(dataset: Any) -> Iterator[dict]:
    """The config of a data set and of those within, as in a
    ``RepeatDataset``.

    Args:
        dataset (dict | Any): The config.

    Yields:
        dict: The configs, the outermost first; of several beside each other
        the first. Nothing if it is no config.
    """
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
