"""What ``parallel`` of a config says, and what does not go with it."""
from typing import Any, Iterable, Mapping

import torch.nn as nn
from mmengine.dist import get_world_size, is_distributed
from mmengine.hooks import EMAHook, SyncBuffersHook
from mmengine.optim import AmpOptimWrapper
from mmengine.utils import digit_version
from mmengine.utils.dl_utils import TORCH_VERSION
from mmpretrain.engine import PreciseBNHook

from mcod_plugin.config.parts import is_part
from mcod_plugin.errors import ConfigError, check_integer, nearest
from ..optim_wrapper.clip_grad import clipped_together

__all__ = [
    'check_cohort', 'check_hooks', 'check_settings', 'parallel_branches'
]

# Settings that a config must not have beside it, unless they have this value.
WITHOUT = dict(
    on_divergence='stop',
    compile=False,
    sync_bn=None,
    model_wrapper_cfg=None,
    efficient_conv_bn_eval=None)
# Those that exchange all weights or buffers, as if all processes had the same.
HOOKS = (EMAHook, PreciseBNHook, SyncBuffersHook)


def parallel_branches(cfg: Mapping[str, Any]) -> int:
    """How many processes share the branches: ``parallel.branch``; 1
    without."""
    setting = cfg.get('parallel')
    if setting is None:
        return 1
    if not isinstance(setting, dict):
        raise ConfigError('parallel must be a dict such as dict(branch=2); '
                          f'got {setting!r}')
    for key in setting:
        if key != 'branch':
            raise ConfigError(
                f'parallel.{key} is unknown; {nearest(key, ["branch"])}'.
                rstrip('; ') + '; it takes branch, the number of processes '
                'that share the branches')
    number = setting.get('branch', 1)
    check_integer('parallel.branch', number)
    return number


def check_settings(cfg: Mapping[str, Any], number: int) -> None:
    """Raise unless so many processes, at least 2, can share the branches, as
    far as the config tells."""
    name = f'parallel.branch={number}'
    if digit_version(TORCH_VERSION) < digit_version('2.2'):
        raise ConfigError(f'{name} needs PyTorch 2.2 or newer; this is '
                          f'{TORCH_VERSION}')
    for key, value in WITHOUT.items():
        if cfg.get(key, value) not in (value, None):
            raise ConfigError(f'{name} does not go with {key}='
                              f'{cfg[key]!r}; leave one of them out')
    if (cfg.get('randomness') or {}).get('diff_rank_seed'):
        raise ConfigError(
            f'{name} does not go with randomness.diff_rank_seed: processes '
            'that share branches see the same images; leave one of them out')
    wrapper = cfg.get('optim_wrapper') or {}
    if is_part(wrapper, AmpOptimWrapper):
        raise ConfigError(
            f'{name} does not go with optim_wrapper.type AmpOptimWrapper, '
            'whose scale would differ; mcod_plugin.AutocastOptimWrapper '
            '(--amp) does')
    if not is_distributed() or get_world_size() % number:
        processes = get_world_size() if is_distributed() else 1
        raise ConfigError(
            f'{name} needs a multiple of {number} processes; there are '
            f'{processes}; start as many (tools/dist_train.sh), or set '
            'parallel.branch=1')


def check_cohort(cfg: Mapping[str, Any], model: nn.Module,
                 number: int) -> None:
    """Raise unless so many processes can share the branches of a model."""
    name = f'parallel.branch={number}'
    if not hasattr(model, 'peers'):
        raise ConfigError(f'{name} needs a cohort such as mcod_plugin.'
                          'MultiBackboneClassifier; got '
                          f'{type(model).__name__}')
    if number > len(model.kd_weights):
        raise ConfigError(
            f'{name} is more than there are branches to train: '
            f'{", ".join(model.kd_weights)}; each process needs one')
    for key in ('teacher', 'distill'):
        part = getattr(model, key)
        if getattr(part, 'needs_feats', False):
            raise ConfigError(
                f'{name} does not go with model.{key}.type '
                f'{type(part).__name__}, which needs features: only logits '
                'are exchanged')
    if model.teacher.needs_images:
        raise ConfigError(
            f'{name} does not go with a teacher that looks at images itself, '
            'as model.teacher.ema does: only logits of the branches are '
            'exchanged')
    clip = (cfg.get('optim_wrapper') or {}).get('clip_grad')
    together = clipped_together(clip, model)
    if together:
        raise ConfigError(
            f'{name} does not go with optim_wrapper.clip_grad by the norm '
            f'over {", ".join(together)}: each process knows its own; give '
            'each branch a clip_grad')


def check_hooks(hooks: Iterable[Any], number: int) -> None:
    """Raise if a hook takes it that all processes have the same weights."""
    for hook in hooks:
        if isinstance(hook, HOOKS):
            raise ConfigError(
                f'parallel.branch={number} does not go with '
                f'{type(hook).__name__}, which takes it that all processes '
                'have all branches; leave one of them out')
