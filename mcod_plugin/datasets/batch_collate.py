from typing import Any

from mmengine.dataset import default_collate

from mcod_plugin.registry import FUNCTIONS


@FUNCTIONS.register_module()
def batch_collate(data: Any) -> Any:
    """The ``collate_fn`` of data sets that make whole batches: of a batch of
    :class:`InMemoryDataset`, or the samples of a data set that wraps one."""
    return data if isinstance(data, dict) else default_collate(data)
