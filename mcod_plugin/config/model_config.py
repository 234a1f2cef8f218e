"""What the runner adds to a model's config before it builds it."""
from typing import Any

from .input_size import data_input_size
from .read import LOADERS

__all__ = ['model_config', 'preprocessor_config']


def model_config(cfg: Any) -> Any:
    """The config of a cohort as the runner builds it: a shallow copy of
    ``cfg.model``. What it does not tell itself comes from the rest of the
    config: ``data_preprocessor``, and the size of the data's images as
    ``input_size``."""
    model = type(cfg.model)(cfg.model)
    if cfg.get('data_preprocessor') is not None:
        model.setdefault('data_preprocessor', cfg.data_preprocessor)
    size = data_input_size(cfg.get(name) for name in reversed(LOADERS))
    if model.get('input_size') is None and size is not None:
        model['input_size'] = size
    return model


def preprocessor_config(cfg: Any) -> dict:
    """The config of the data preprocessor, of a cohort or of a classifier, as
    a copy: that of the model, else that of the whole config, as MMEngine has
    it, with the batch augmentations of the model's ``train_cfg``. Empty if
    there is none."""
    model = cfg.get('model') or {}
    found = dict(
        model.get('data_preprocessor', cfg.get('data_preprocessor')) or {})
    if model.get('train_cfg') is not None:
        found.setdefault('batch_augments', model['train_cfg'])
    return found
