from typing import Any, Iterator

__all__ = ['dataset_layers']


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
