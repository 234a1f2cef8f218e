"""The weights that a config asks to start from."""
import copy
from typing import Any, Iterator

from mmengine.model import PretrainedInit

from .parts import is_part, walk

__all__ = [
    'PRETRAINED_KEYS', 'checkpoints', 'is_pretrained', 'without_pretrained'
]

# Settings that name weights besides ``init_cfg``.
PRETRAINED_KEYS = ('pretrained', 'checkpoint_path')


def without_pretrained(cfg: Any) -> Any:
    """A copy of a config that asks for no weights to start from."""
    if isinstance(cfg, dict):
        return type(cfg)({
            key: without_pretrained(value)
            for key, value in cfg.items() if key not in PRETRAINED_KEYS
            and not (key == 'init_cfg' and _loads_weights(value))
        })
    if isinstance(cfg, (list, tuple)):
        return type(cfg)(without_pretrained(value) for value in cfg)
    return copy.deepcopy(cfg)


def is_pretrained(cfg: Any) -> bool:
    """Whether a config, or a part of it, asks for weights to start from."""
    return any(True for _ in checkpoints(cfg))


def checkpoints(cfg: Any) -> Iterator[str]:
    """The weights that a model's config asks to start from: the path or
    address of each checkpoint; of weights that timm has the name of the
    network."""
    for _, part in walk(cfg):
        if not isinstance(part, dict):
            continue
        if is_part(part, PretrainedInit):
            yield str(part.get('checkpoint'))
        path, pretrained = part.get('checkpoint_path'), part.get('pretrained')
        if path:
            yield str(path)
        elif pretrained:
            # Of timm it is a switch, not a path.
            yield str(
                part.get('model_name') if pretrained is True else pretrained)


def _loads_weights(init_cfg: Any) -> bool:
    cfgs = init_cfg if isinstance(init_cfg, (list, tuple)) else [init_cfg]
    return any(is_part(cfg, PretrainedInit) for cfg in cfgs)
