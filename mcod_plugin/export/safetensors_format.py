"""Weights as safetensors, and what they are of as JSON."""
import os.path as osp

from .branch_model import BranchModel
from .files import to_json, to_safetensors, write_bytes

__all__ = ['write_safetensors']


def write_safetensors(model: BranchModel, folder: str) -> None:
    """Write ``model.safetensors`` and ``config.json``.

    The weights are those of the toolbox's classifier. The JSON holds its
    config ``model`` with the preprocessor, ``preprocessing`` in words for
    whoever does without the toolbox, ``classes``, ``metrics`` and
    ``origin``.

    Args:
        model (BranchModel): The branch.
        folder (str): Where to write them.
    """
    classifier, state_dict = model.toolbox
    config = dict(
        model=dict(classifier, data_preprocessor=model.preprocessor),
        custom_imports=model.custom_imports,
        preprocessing=dict(
            input_shape=list(model.input_shape),
            channel_order=model.channel_order,
            value_range=[0, 255],
            mean=list(model.mean),
            std=list(model.std),
            crop_ratio=model.crop_ratio),
        classes=model.classes,
        metrics=model.metrics,
        origin=model.origin)
    write_bytes(osp.join(folder, 'config.json'), to_json(config))
    write_bytes(
        osp.join(folder, 'model.safetensors'), to_safetensors(state_dict))
