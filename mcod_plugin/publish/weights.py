"""The files of weights that are published."""
import copy
import datetime
import hashlib
import os
import os.path as osp
from pathlib import Path
from typing import Any, Dict, Tuple

import torch.nn as nn
from mmengine.config import Config

from mcod_plugin.alone.files import to_checkpoint, to_safetensors
from mcod_plugin.config.parts import is_part
from mcod_plugin.config.plain import plain
from mcod_plugin.config.pretrained import without_pretrained
from mcod_plugin.engine.hooks import RunRecordHook

__all__ = ['publish_name', 'published_config', 'write_cohort']

# Settings that tell of a machine or of how a run was started.
OF_A_RUN = ('work_dir', 'experiment_name', 'launcher', 'resume', 'load_from')


def published_config(cfg: Any, cohort: nn.Module) -> Config:
    """The config by which a cohort, which was built from that of its run, is
    trained and tested anew; its model can be built by itself. Settings of the
    run are left out, such as its work directory, and weights to start from."""
    settings = {
        key: value
        for key, value in plain('config', cfg.to_dict()).items()
        if key not in OF_A_RUN
    }
    hooks = settings.get('custom_hooks') or []
    settings['custom_hooks'] = [
        hook for hook in hooks if not is_part(hook, RunRecordHook)
    ]
    model = settings['model'] = without_pretrained(settings['model'])
    if settings.get('data_preprocessor'):
        model.setdefault('data_preprocessor',
                         copy.deepcopy(settings['data_preprocessor']))
    # The numbers on the card are of single precision.
    (settings.get('test_cfg') or {}).pop('fp16', None)
    if model.get('input_size') is None:
        model['input_size'] = tuple(cohort.input_size)
    return Config(settings)


def write_cohort(cfg: Config, cohort: nn.Module, meta: Dict[str, Any],
                 folder: str) -> None:
    """Write ``config.py``, ``model.pth`` and ``model.safetensors`` of a
    cohort, which is on the CPU, into a folder: its published config, and its
    weights with what the checkpoint tells of itself."""
    Path(folder, 'config.py').write_text(cfg.pretty_text, 'utf-8')
    state_dict = cohort.state_dict()
    Path(folder, 'model.pth').write_bytes(to_checkpoint(state_dict, meta))
    Path(folder, 'model.safetensors').write_bytes(to_safetensors(state_dict))


def publish_name(folder: str, model_name: str) -> Tuple[str, str]:
    """Name ``model.pth`` in a folder as MMPretrain names what it publishes,
    ``<name>_<YYYYMMDD>-<first 8 digits of its sha256>.pth``, and return that
    name and the hash."""
    path = osp.join(folder, 'model.pth')
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    today = datetime.date.today().strftime('%Y%m%d')
    name = f'{model_name}_{today}-{digest[:8]}.pth'
    os.replace(path, osp.join(folder, name))
    return name, digest
