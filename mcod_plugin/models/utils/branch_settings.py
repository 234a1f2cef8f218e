import math
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, Optional, Tuple

import torch.nn as nn

from mcod_plugin.config.input_size import parse_input_size
from mcod_plugin.errors import ConfigError, check_choice, check_number

__all__ = ['BranchSettings', 'freeze', 'is_frozen']

Statistics = Optional[Tuple[float, ...]]

# What a branch that is frozen has no use for.
FACTORS = ('lr_mult', 'decay_mult', 'loss_weight')
OPTIMIZATION = ('optimizer', 'clip_grad')


@dataclass(frozen=True)
class BranchSettings:
    """What the config of a branch says besides the classifier.

    Attributes:
        input_size (tuple[int, int]): Height and width of its images, in
            pixels; the cohort's unless the branch has its own.
        mean (tuple[float], optional): Mean of each channel, by which its
            images are normalised; the cohort's unless the branch has its own.
            None if they are not normalised.
        std (tuple[float], optional): Standard deviation of each channel.
        resized (bool): Whether its images are brought to its size.
        frozen (bool): Whether it only teaches.
        lr_mult (float): Factor of the learning rate.
        decay_mult (float): Factor of the weight decay.
        loss_weight (float): Factor of its losses.
        recompute (bool): Whether its activations are computed again in the
            backward pass.
        writes (bool): Whether it changes its images in place, of which its
            config says nothing.
        optimizer (dict, optional): Config of its optimizer; None if it has
            that of the cohort.
        clip_grad (dict, optional): How its gradients are clipped: empty if
            they are not, None if with those of the cohort.
    """

    input_size: Tuple[int, int]
    mean: Statistics = None
    std: Statistics = None
    resized: bool = False
    frozen: bool = False
    lr_mult: float = 1.
    decay_mult: float = 1.
    loss_weight: float = 1.
    recompute: bool = False
    writes: bool = False
    optimizer: Optional[dict] = None
    clip_grad: Optional[dict] = None

    @classmethod
    def of_cohort(cls, input_size: Tuple[int, int], preprocessor: nn.Module,
                  channels: int,
                  loss_weight: float = 1.,
                  recompute: bool = False) -> 'BranchSettings':
        """What a branch that says nothing has: the height and width of the
        data's images, and the normalisation by the preprocessor's values,
        which must be for that many channels."""
        mean, std = (
            _values(f'data_preprocessor.{key}',
                    getattr(preprocessor, key, None), channels, lowest)
            for key, lowest in (('mean', -math.inf), ('std', 0)))
        return cls(
            input_size,
            mean,
            std,
            loss_weight=loss_weight,
            recompute=recompute)

    def take(self, name: str, cfg: Any,
             channels: int) -> Tuple[Any, 'BranchSettings']:
        """Take a branch's settings out of its config: the config of the
        classifier, and the settings; what is left out is as here. A built
        branch has no settings of its own."""
        if isinstance(cfg, nn.Module):
            return cfg, replace(self, frozen=is_frozen(cfg))
        if not isinstance(cfg, dict):
            return cfg, self
        setting = f'model.branches.{name}'
        # The config of the caller must stay as it is.
        cfg = type(cfg)(cfg)
        found = {}
        if 'input_size' in cfg:
            found['input_size'] = parse_input_size(f'{setting}.input_size',
                                                   cfg.pop('input_size'))
            found['resized'] = True
        for key in ('frozen', 'recompute'):
            if key in cfg:
                found[key] = cfg.pop(key)
                check_choice(f'{setting}.{key}', found[key], (True, False))
        if found.get('frozen'):
            for key in (*FACTORS, *OPTIMIZATION):
                if key in cfg:
                    raise ConfigError(f'{setting}.{key} is not used: the '
                                      'branch is frozen')
        for key in FACTORS:
            if key in cfg:
                found[key] = cfg.pop(key)
                check_number(f'{setting}.{key}', found[key], 0,
                             key != 'decay_mult')
        found.update(self._take_optimizer(setting, cfg))
        found.update(self._take_statistics(setting, cfg, channels))
        return cfg, replace(self, **found)

    def _take_optimizer(self, setting: str, cfg: dict) -> dict:
        """``optimizer`` and ``clip_grad`` of a branch, if it has its own."""
        found = {key: cfg.pop(key) for key in OPTIMIZATION if key in cfg}
        for key, value in found.items():
            if not (isinstance(value, dict) or value is None):
                raise ConfigError(f'{setting}.{key} must be a dict or None; '
                                  f'got {value!r}')
        if found.get('optimizer') is not None and not found['optimizer'].get(
                'type'):
            raise ConfigError(
                f"{setting}.optimizer must have a type, such as type='AdamW'; "
                f'got {dict(found["optimizer"])!r}')
        if 'clip_grad' in found:
            found['clip_grad'] = found['clip_grad'] or {}
        return found

    def _take_statistics(self, setting: str, cfg: dict, channels: int) -> dict:
        """``mean`` and ``std`` of a branch, if it has its own."""
        given = {key: cfg.pop(key) for key in ('mean', 'std') if key in cfg}
        for key, value in given.items():
            if (not isinstance(value, (tuple, list)) or len(value) != channels
                    or not all(map(_is_finite, value))):
                raise ConfigError(
                    f'{setting}.{key} must be a list of {channels} numbers, '
                    f'one for each channel of the images; got {value!r}')
        if len(given) == 1:
            raise ConfigError(f'{setting} must have both mean and std, or '
                              f'neither; got {next(iter(given))} alone')
        if not given:
            return given
        if min(given['std']) <= 0:
            raise ConfigError(f'{setting}.std must be greater than 0; got '
                              f'{given["std"]!r}')
        if self.std and max(given['std']) < 1 <= min(self.std):
            raise ConfigError(
                f'{setting}.std must be on the scale of the pixels, as '
                f'model.data_preprocessor.std {list(self.std)}; got '
                f'{given["std"]!r} (mean and std on a scale of 0 to 1 are to '
                'be multiplied by 255)')
        return {key: tuple(map(float, value)) for key, value in given.items()}


def _is_finite(value: Any) -> bool:
    return (isinstance(value, Real) and not isinstance(value, bool)
            and math.isfinite(value))


def _values(setting: str, buffer: Any, channels: int,
            lowest: float) -> Statistics:
    """The numbers of a preprocessor's buffer, as a config writes them."""
    if buffer is None:
        return None
    values = buffer.flatten().tolist()
    if not all(lowest < value < math.inf for value in values):
        bound = ' greater than 0' if lowest == 0 else ''
        raise ConfigError(f'{setting} must be finite numbers{bound}; got '
                          f'{values!r}')
    # Seven digits are what single precision has kept of them.
    values = [float(f'{value:.7g}') for value in values]
    return tuple(values * channels if len(values) == 1 else values)


def freeze(branch: nn.Module) -> None:
    """Take a branch out of training.

    An optimizer leaves parameters alone that have no gradient, weight decay
    included, and ``DistributedDataParallel`` does not wait for them.
    """
    branch.requires_grad_(False)
    branch.eval()


def is_frozen(branch: nn.Module) -> bool:
    """Whether none of a branch's parameters is trained."""
    return not any(value.requires_grad for value in branch.parameters())
