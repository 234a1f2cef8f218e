from typing import Any

from .input_size import data_input_size
from .read import LOADERS

__all__ = ['model_config']


def model_config(cfg: Any) -> Any:
    """The config of a cohort as the runner builds it: what it does not tell
    itself comes from the rest of the config.

    Args:
        cfg (Config): The whole config, which stays as it is.

    Returns:
        ConfigDict: A shallow copy of ``cfg.model``, with the config's
        ``data_preprocessor`` and the size of the data's images as
        ``input_size``.
    """
    model = type(cfg.model)(cfg.model)
    if cfg.get('data_preprocessor') is not None:
        model.setdefault('data_preprocessor', cfg.data_preprocessor)
    size = data_input_size(cfg.get(name) for name in reversed(LOADERS))
    if model.get('input_size') is None and size is not None:
        model['input_size'] = size
    return model
