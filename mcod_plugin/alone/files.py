"""The files of a branch, or of a cohort, that others open."""
import io
import json
import os
import os.path as osp
from collections import OrderedDict
from pathlib import Path
from typing import Dict, Mapping

import torch
from mmengine.config import Config
from torch import Tensor

from mcod_plugin.errors import ConfigError
from mcod_plugin.utils.plain import to_plain
from .branch_model import BranchModel

__all__ = [
    'file_sizes', 'timm_fault', 'to_checkpoint', 'to_safetensors',
    'write_mmpretrain', 'write_safetensors', 'write_timm'
]

# The libraries write into memory: of a full disk each tells in its own way,
# Python by an ``OSError``.

FILES_NOTE = """\
# The network sees {order} images, as the data set holds them. Tools that read
# image files read BGR, so hand them arrays: inferencer(image[..., ::-1]).
"""


def write_mmpretrain(model: BranchModel, folder: str) -> None:
    """Write ``config.py`` and ``model.pth`` of a branch into a folder. A plain
    network has none.

    The config holds the classifier with its preprocessor, and the data and
    metrics of a test. The checkpoint holds ``state_dict`` and ``meta`` with
    ``dataset_meta``, and is opened by ``torch.load(weights_only=True)``.
    """
    if model.is_plain:
        raise ConfigError(
            f'branch {model.name} is a plain network, '
            f'{type(model.classifier).__name__}, which MMPretrain cannot '
            'open; export it as safetensors or onnx')
    classifier, state_dict = model.mmpretrain
    settings = dict(default_scope='mmpretrain')
    if model.custom_imports:
        settings['custom_imports'] = dict(
            imports=model.custom_imports, allow_failed_imports=False)
    settings['model'] = dict(classifier, data_preprocessor=model.preprocessor)
    settings.update(model.test_settings)
    text = f'# {model.name}, a branch of {model.origin["config"]}\n'
    if model.data_order == 'RGB' and model.input_shape[0] == 3:
        text += FILES_NOTE.format(order=model.channel_order)
    text += Config(settings).pretty_text
    Path(folder, 'config.py').write_text(text, 'utf-8')

    dataset_meta = dict(classes=model.classes) if model.classes else {}
    meta = dict(
        dataset_meta=dataset_meta, metrics=model.metrics, **model.origin)
    Path(folder, 'model.pth').write_bytes(to_checkpoint(state_dict, meta))


def write_safetensors(model: BranchModel, folder: str) -> None:
    """Write ``model.safetensors`` and ``config.json`` of a branch into a
    folder.

    The weights are those of MMPretrain's classifier. The JSON holds its config
    ``model`` with the preprocessor, ``preprocessing`` in words for whoever
    does without MMPretrain, ``classes``, ``metrics`` and ``origin``. A plain
    network has no preprocessor, and takes images that are prepared as
    ``preprocessing`` says.
    """
    classifier, state_dict = model.mmpretrain
    if not model.is_plain:
        classifier = dict(classifier, data_preprocessor=model.preprocessor)
    config = dict(
        model=classifier,
        custom_imports=model.custom_imports,
        preprocessing=dict(
            input_shape=list(model.input_shape),
            channel_order=model.channel_order,
            value_range=[0, 255],
            mean=list(model.mean),
            std=list(model.std),
            crop_ratio=model.crop_ratio,
            interpolation=model.interpolation),
        classes=model.classes,
        metrics=model.metrics,
        origin=model.origin)
    _write_weights(folder, config, state_dict)


def timm_fault(model: BranchModel) -> str:
    """Why timm cannot open a branch; empty if it can."""
    if model.timm is None:
        return (f'no classifier of timm gives the logits of branch '
                f'{model.name}')
    if model.channel_order != 'RGB' and model.input_shape[0] == 3:
        return (f'branch {model.name} sees BGR images, which timm does not '
                'give')
    return ''


def write_timm(model: BranchModel, folder: str) -> None:
    """Write ``config.json`` and ``model.safetensors`` of a branch that timm
    opens, see :func:`timm_fault`, into a folder, in timm's layout for the
    Hugging Face hub.

    ``timm.create_model('local-dir:FOLDER', pretrained=True)`` is the branch,
    and ``timm.data.resolve_model_data_config`` tells how its images are
    prepared: RGB on a scale of 0 to 1.
    """
    fault = timm_fault(model)
    if fault:
        other = ('safetensors and onnx take it' if model.is_plain else
                 'mmpretrain, safetensors and onnx take it')
        raise ConfigError(f'--format timm: {fault}; {other}')
    architecture, model_args, network = model.timm
    given = network.pretrained_cfg
    config = dict(
        architecture=architecture,
        num_classes=model.num_classes,
        num_features=network.num_features,
        model_args=model_args,
        pretrained_cfg=dict(
            num_classes=model.num_classes,
            input_size=list(model.input_shape),
            fixed_input_size=bool(given.get('fixed_input_size')),
            interpolation=model.interpolation,
            crop_pct=model.crop_ratio,
            crop_mode='center',
            mean=[value / 255 for value in model.mean],
            std=[value / 255 for value in model.std],
            first_conv=given.get('first_conv'),
            classifier=given.get('classifier'),
            # The weights are timm's own, whatever the architecture's are.
            custom_load=False))
    if model.classes:
        config['label_names'] = model.classes
    _write_weights(folder, config, network.state_dict())


def _write_weights(folder: str, config: dict,
                   state_dict: Mapping[str, Tensor]) -> None:
    text = json.dumps(config, indent=2, ensure_ascii=False)
    Path(folder, 'config.json').write_text(text, 'utf-8')
    Path(folder, 'model.safetensors').write_bytes(to_safetensors(state_dict))


def to_checkpoint(state_dict: Mapping[str, Tensor], meta: dict) -> bytes:
    """Weights, and what the checkpoint tells of itself, as a file that
    ``torch.load(weights_only=True)`` opens: with ``state_dict`` and
    ``meta``."""
    # A copy without the gaps that other memory formats leave. The versions of
    # the parts, which some of them look for, stay with it.
    weights = OrderedDict(
        (key, value.detach().clone(memory_format=torch.contiguous_format))
        for key, value in state_dict.items())
    weights._metadata = getattr(state_dict, '_metadata', OrderedDict())
    buffer = io.BytesIO()
    torch.save(dict(state_dict=weights, meta=to_plain(meta)), buffer)
    return buffer.getvalue()


def to_safetensors(state_dict: Mapping[str, Tensor]) -> bytes:
    """Weights as a safetensors file."""
    from safetensors.torch import save

    # It takes no tensors that share memory or have gaps.
    weights: Dict[str, Tensor] = {
        key: value.detach().cpu().contiguous().clone()
        for key, value in state_dict.items()
    }
    return save(weights, metadata={'format': 'pt'})


def file_sizes(folder: str) -> Dict[str, int]:
    """Size in bytes of each file in a folder, sorted by name; folders in it do
    not count."""
    return {
        file: osp.getsize(osp.join(folder, file))
        for file in sorted(os.listdir(folder))
        if osp.isfile(osp.join(folder, file))
    }
