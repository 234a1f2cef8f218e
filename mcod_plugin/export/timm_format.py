"""A folder that timm opens."""
import json
from pathlib import Path

from mcod_plugin.alone.branch_model import BranchModel
from mcod_plugin.alone.files import to_safetensors
from mcod_plugin.errors import ConfigError

__all__ = ['write_timm']


def write_timm(model: BranchModel, folder: str) -> None:
    """Write ``config.json`` and ``model.safetensors``, in timm's layout for
    the Hugging Face hub.

    ``timm.create_model('local-dir:FOLDER', pretrained=True)`` is the branch,
    and ``timm.data.resolve_model_data_config`` tells how its images are
    prepared: RGB on a scale of 0 to 1.

    Args:
        model (BranchModel): The branch.
        folder (str): Where to write them.

    Raises:
        ConfigError: If timm has no network that gives its logits, or its
            images are BGR.
    """
    other = ('safetensors and onnx take it'
             if model.is_plain else 'mmpretrain, safetensors and onnx take it')
    if model.timm is None:
        raise ConfigError(f'--format timm: no classifier of timm gives the '
                          f'logits of branch {model.name}; {other}')
    if model.channel_order != 'RGB' and model.input_shape[0] == 3:
        raise ConfigError(f'--format timm: branch {model.name} sees BGR '
                          f'images, which timm does not give; {other}')
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
    text = json.dumps(config, indent=2, ensure_ascii=False)
    Path(folder, 'config.json').write_text(text, 'utf-8')
    Path(folder, 'model.safetensors').write_bytes(
        to_safetensors(network.state_dict()))
