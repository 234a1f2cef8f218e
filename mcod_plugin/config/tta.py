"""Test-time augmentation, as MMPretrain's test tool asks for it."""
import copy
from typing import Any

from mcod_plugin.errors import ConfigError

__all__ = ['use_tta']


def use_tta(cfg: Any) -> None:
    """Have a cohort tested on several versions of each image: by ``tta_model``
    and ``tta_pipeline`` of the config, which is changed; without them, the
    scores of each image and of its mirror image are averaged. The test data
    must have a pipeline that can be replaced."""
    dataset = cfg.test_dataloader.get('dataset')
    pipeline = dataset.get('pipeline') if isinstance(dataset, dict) else None
    if not pipeline:
        raise ConfigError(
            '--tta: test_dataloader.dataset must have a pipeline; got a '
            f'dataset of type {getattr(dataset, "type", dataset)!r} '
            'without one')
    if cfg.get('tta_model') is None:
        cfg.tta_model = dict(type='mcod_plugin.CohortTTA')
    if cfg.get('tta_pipeline') is None:
        flips = [dict(type='RandomFlip', prob=prob) for prob in (1., 0.)]
        last = copy.deepcopy(pipeline[-1])
        cfg.tta_pipeline = [
            *copy.deepcopy(pipeline[:-1]),
            dict(type='TestTimeAug', transforms=[flips, [last]])
        ]
    cfg.model = dict(cfg.tta_model, module=cfg.model)
    dataset.pipeline = cfg.tta_pipeline
