"""A config to compose from, and what it says."""
import inspect
import os.path as osp
from numbers import Real
from typing import Any, Dict, List, Optional, Sequence, Set, Tuple

from mmengine.config import Config
from mmengine.registry import OPTIMIZERS

from mcod_plugin.config.data import channel_order, innermost_dataset
from mcod_plugin.config.input_size import data_input_size, parse_input_size
from mcod_plugin.config.model_config import preprocessor_config
from mcod_plugin.config.parts import type_name
from mcod_plugin.config.pretrained import checkpoints
from mcod_plugin.config.read import LOADERS, base_files

__all__ = ['Source', 'call_text']

# Settings of a scheduler that say how it counts, not what it does.
COUNTING = ('by_epoch', 'convert_to_iter_based', 'begin')


class Source:
    """The config of a classifier.

    Everything is read from the config; what it does not tell is None or
    empty.

    Args:
        name (str): The branch's name.
        config (str): The config, as the user typed it.
        cfg (Config): What it holds.
    """

    def __init__(self, name: str, config: str, cfg: Any) -> None:
        self.name = name
        self.config = config
        self.cfg = cfg

    @property
    def files(self) -> Set[str]:
        """The real paths of the config and of those that it inherits."""
        path = self.cfg.filename
        # MMEngine has the path of each above its text, but nothing of what a
        # config of pure Python style imports.
        found = {path, *filter(osp.isabs, self.cfg.text.splitlines())}
        if Config._is_lazy_import(path):
            found.update(base_files(path))
        return set(map(osp.realpath, found))

    @property
    def model(self) -> dict:
        """The model's config."""
        return self.cfg.get('model') or {}

    @property
    def dataset(self) -> dict:
        """The data set for training, without wrappers such as
        ``RepeatDataset``."""
        return innermost_dataset(self.cfg.get('train_dataloader') or {})

    @property
    def dataset_type(self) -> str:
        """The type of the data set for training."""
        return self.dataset.get('source') or type_name(self.dataset)

    @property
    def classes(self) -> Optional[Tuple[str, ...]]:
        """The names of the classes, if they are known before the data are
        read."""
        from mmpretrain.registry import DATASETS

        from mcod_plugin.datasets.split import are_names
        dataset = self.dataset
        if 'source' in dataset and (dataset.get('label', 'fine') != 'fine'
                                    or dataset.get('classes') is not None):
            # The names of the source are not those of a part of it.
            chosen = dataset.get('classes')
            return tuple(chosen) if are_names(chosen) else None
        found = (dataset.get('metainfo') or {}).get('classes',
                                                    dataset.get('classes'))
        if found is None and self.dataset_type:
            # Not its kind: a prefix tells the registry.
            kind = dataset.get('source', dataset['type'])
            if isinstance(kind, str):
                kind = DATASETS.get(kind)
            found = (getattr(kind, 'METAINFO', None) or {}).get('classes')
        return None if found is None or isinstance(found,
                                                   str) else tuple(found)

    @property
    def input_size(self) -> Optional[Tuple[int, int]]:
        """Height and width of the images, in pixels."""
        size = data_input_size(
            self.cfg.get(name) for name in reversed(LOADERS))
        return None if size is None else parse_input_size('input_size', size)

    @property
    def preprocessor(self) -> dict:
        """The data preprocessor's config."""
        return preprocessor_config(self.cfg)

    @property
    def statistics(self) -> Tuple[List[float], List[float]]:
        """Mean and standard deviation by channel, on the scale of pixels."""
        found = self.preprocessor
        # MMPretrain's own takes them in no other way.
        if found.get('mean') is None or found.get('std') is None:
            return [0., 0., 0.], [1., 1., 1.]
        return list(found['mean']), list(found['std'])

    @property
    def channel_order(self) -> str:
        """The order of the channels that the model sees."""
        order = channel_order(self.dataset.get('pipeline') or ())
        return order[::-1] if self.preprocessor.get('to_rgb') else order

    @property
    def batch_augments(self) -> Sequence[dict]:
        """The batch augmentations."""
        found = (self.preprocessor.get('batch_augments')
                 or {}).get('augments') or []
        return [found] if isinstance(found, dict) else list(found)

    @property
    def optimizer(self) -> dict:
        """The optimizer's config."""
        return self.optim_wrapper.get('optimizer') or {}

    @property
    def optim_wrapper(self) -> dict:
        """The optimizer wrapper's config."""
        return self.cfg.get('optim_wrapper') or {}

    @property
    def lr(self) -> Optional[float]:
        """The learning rate."""
        return self.of_optimizer('lr')

    @property
    def weight_decay(self) -> float:
        """The weight decay."""
        return self.of_optimizer('weight_decay') or 0.

    def of_optimizer(self, key: str) -> Optional[float]:
        """A number among the settings of the optimizer: what it says, else its
        default; None if it has no such setting."""
        kind = self.optimizer.get('type')
        if isinstance(kind, str):
            with OPTIMIZERS.switch_scope_and_registry(None) as registry:
                kind = registry.get(kind)
        arguments = inspect.signature(kind).parameters if kind else {}
        default = arguments[key].default if key in arguments else None
        found = self.optimizer.get(key, default)
        return found if isinstance(found, Real) else None

    @property
    def total_batch(self) -> Optional[int]:
        """The batch size of all processes together that the learning rate is
        meant for."""
        return (self.cfg.get('auto_scale_lr') or {}).get('base_batch_size')

    @property
    def batch_size(self) -> Optional[int]:
        """The batch size of each process."""
        return (self.cfg.get('train_dataloader') or {}).get('batch_size')

    @property
    def weights(self) -> List[str]:
        """The checkpoints from which training starts."""
        found = list(checkpoints(self.model))
        if self.cfg.get('load_from'):
            found.append(self.cfg.load_from)
        return found

    def facts(self) -> Dict[str, str]:
        """What matters in a cohort, in words by setting."""
        cfg = self.cfg
        schedulers = cfg.get('param_scheduler') or []
        if isinstance(schedulers, dict):
            schedulers = [schedulers]
        mean, std = self.statistics
        batch = str(self.batch_size or '')
        if self.batch_size and self.total_batch:
            batch += f' per process, {self.total_batch} in all'
        pipeline = self.dataset.get('pipeline') or ()
        return {
            'data set':
            self.dataset_type,
            'input size':
            'x'.join(map(str, self.input_size or ())),
            'normalisation':
            f'mean {_numbers(mean)}, std {_numbers(std)}, '
            f'{self.channel_order}',
            'training images':
            ', '.join(type_name(step) for step in pipeline),
            'batch augmentations':
            ', '.join(map(call_text, self.batch_augments)),
            'optimizer':
            call_text(self.optimizer, ('lr', 'weight_decay')),
            'learning rate':
            '' if self.lr is None else f'{self.lr:g}',
            'weight decay':
            f'{self.weight_decay:g}' if self.optimizer else '',
            'paramwise_cfg':
            _plain(self.optim_wrapper.get('paramwise_cfg')),
            'clip_grad':
            _plain(self.optim_wrapper.get('clip_grad')),
            'schedule':
            ', '.join(call_text(part, COUNTING) for part in schedulers),
            'epochs':
            str((cfg.get('train_cfg') or {}).get('max_epochs') or ''),
            'iterations':
            str((cfg.get('train_cfg') or {}).get('max_iters') or ''),
            'batch size':
            batch,
            'pre-trained weights':
            ', '.join(self.weights),
            'custom hooks':
            ', '.join(map(call_text,
                          cfg.get('custom_hooks') or ())),
        }


def call_text(part: dict, without: Sequence[str] = ()) -> str:
    """A config as a call in one line, without some settings, such as
    ``'SGD(momentum=0.9)'``; empty for an empty config."""
    settings = ', '.join(f'{key}={_plain(value)}'
                         for key, value in part.items()
                         if key not in ('type', '_scope_', *without))
    return f'{type_name(part)}({settings})' if settings else type_name(part)


def _plain(value: Any) -> str:
    """A setting in words."""
    if value is None:
        return ''
    if isinstance(value, dict):
        return ', '.join(
            f'{key}={_plain(child)}'
            if not isinstance(child, dict) else f'{key} ({_plain(child)})'
            for key, child in value.items() if key != '_scope_')
    return f'{value:g}' if isinstance(value, float) else str(value)


def _numbers(values: Sequence[float]) -> str:
    """Numbers in words; one that all share once."""
    values = [f'{value:g}' for value in values]
    return values[0] if len(set(values)) == 1 else ' '.join(values)
