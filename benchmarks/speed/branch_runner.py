"""One branch alone, as a user of MMPretrain trains it."""
import copy
from functools import partial
from typing import Any, Optional, Sequence, Tuple, Union

from mmengine.config import Config
from mmengine.device import is_cuda_available
from mmengine.runner import Runner
from mmpretrain.registry import DATASETS as MMPRETRAIN_DATASETS

from mcod_plugin.alone.cohort import build_cohort
from mcod_plugin.alone.data import dataset_alone, evaluator, preprocessor
from mcod_plugin.config.branch_from import read_source
from mcod_plugin.config.model_config import preprocessor_config
from mcod_plugin.config.parts import is_part, walk
from mcod_plugin.datasets import InMemoryDataset
from mcod_plugin.datasets.in_memory_dataset import OWN_KEYS, PART_KEYS
from mcod_plugin.datasets.split import check_per_class, select_images
from mcod_plugin.registry import DATASETS, MODELS
from .optimizer_alone import optim_wrapper_alone

__all__ = ['FOREVER', 'branch_loader', 'branch_runner']

# Epochs that no benchmark lives to see the end of.
FOREVER = 10**5
# What a plain OptimWrapper takes, and its constructor.
OPTIM_KEYS = ('optimizer', 'accumulative_counts', 'clip_grad', 'constructor',
              'paramwise_cfg')


def branch_runner(cfg: Any, name: str, workers: int, folder: str) -> Runner:
    """MMPretrain's runner of one branch, by MMPretrain's own defaults.

    The classifier, its data, optimizer and learning rate are those of the
    branch as it stands alone. Single precision, memory format, optimizer
    wrapper, hooks and environment are those of MMPretrain. It never ends or
    validates of its own accord.

    Args:
        cfg (Config): The cohort's config.
        name (str): The branch.
        workers (int): Number of worker processes of each data loader.
        folder (str): The work directory.

    Returns:
        Runner: The runner.
    """
    cohort = build_cohort(cfg, name)
    classifier, branch = cohort.branches[name], cohort.branch_settings[name]
    classifier.data_preprocessor = MODELS.build(
        preprocessor(
            preprocessor_config(cfg),
            branch.mean,
            branch.std,
            cohort.num_classes,
            training=True))
    images = [None, cohort.in_channels]
    if branch.input_size != cohort.input_size:
        images[0] = branch.input_size
    optim_wrapper = optim_wrapper_alone(cfg.optim_wrapper, branch)
    runtime = read_source('mmpretrain::_base_/default_runtime.py')
    runtime.default_hooks.checkpoint.interval = FOREVER
    # It is no argument of the runner's, but a name used in the visualizer.
    runtime.pop('vis_backends')
    settings = dict(
        runtime,
        work_dir=folder,
        train_dataloader=branch_loader(cfg.train_dataloader, workers, *images,
                                       name),
        train_cfg=dict(
            by_epoch=True, max_epochs=FOREVER, val_interval=FOREVER),
        optim_wrapper=dict(
            {
                key: optim_wrapper[key]
                for key in OPTIM_KEYS if key in optim_wrapper
            },
            type='OptimWrapper'),
        param_scheduler=cfg.get('param_scheduler'))
    if cfg.get('val_dataloader') is not None:
        settings.update(
            val_dataloader=branch_loader(cfg.val_dataloader, workers, *images),
            val_cfg=dict(),
            val_evaluator=evaluator(cfg.val_evaluator, cohort.num_classes,
                                    cohort.multi_label))
    return Runner(model=classifier, cfg=Config(settings), **settings)


def branch_loader(loader: dict,
                  workers: int,
                  size: Optional[Tuple[int, int]] = None,
                  channels: int = 3,
                  branch: Optional[str] = None) -> dict:
    """A data loader's config with MMPretrain's pipeline and defaults; for
    size, channels and branch see :func:`dataset_alone`."""
    loader = copy.deepcopy(loader)
    loader['dataset'] = dataset_alone(
        loader['dataset'], size, channels, branch=branch)
    for _, dataset in walk(loader['dataset']):
        # What is left in memory takes a part of its source.
        if is_part(dataset, InMemoryDataset):
            own = {key: dataset.pop(key, None) for key in OWN_KEYS}
            dataset.update(
                {key: own[key]
                 for key in PART_KEYS if own[key] is not None},
                type='mcod_plugin.select_source',
                source=own['source'])
    loader.update(
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=is_cuda_available(),
        collate_fn=dict(type='default_collate'))
    return loader


@DATASETS.register_module()
def select_source(source: str,
                  label: str = 'fine',
                  classes: Union[str, Sequence[Union[str, int]], None] = None,
                  per_class: Optional[Sequence[Optional[int]]] = None,
                  **settings) -> Any:
    """MMPretrain's data set with a part of its images, as
    :class:`InMemoryDataset` chooses it.

    As ``indices`` their numbers would stand in the config, which would take
    half a minute to print.
    """
    if per_class is not None:
        check_per_class('per_class of InMemoryDataset', per_class)
    dataset = MMPRETRAIN_DATASETS.build(dict(settings, type=source))
    numbers, labels, names = select_images(dataset, dataset.get_gt_labels(),
                                           label, classes, per_class)
    dataset.get_subset_(numbers.tolist())
    if label != 'fine' or classes is not None:
        dataset.pipeline.transforms.insert(0, partial(_relabel, labels))
    return dataset


def _relabel(labels: Sequence[int], data: dict) -> dict:
    return dict(data, gt_label=int(labels[data['sample_idx']]))
