"""One branch alone, as a user of the toolbox trains it."""
import copy
import inspect
from functools import partial
from typing import Any, Optional, Sequence, Tuple, Union

from mmengine.config import Config
from mmengine.device import is_cuda_available
from mmengine.hub import get_config
from mmengine.runner import Runner
from mmpretrain.datasets import PackInputs
from mmpretrain.models import ClsDataPreprocessor
from mmpretrain.registry import DATASETS as MMPRETRAIN_DATASETS
from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS

from mcod_plugin.config.input_size import data_input_size
from mcod_plugin.config.parts import is_part, walk
from mcod_plugin.config.read import LOADERS
from mcod_plugin.datasets import InMemoryDataset
from mcod_plugin.datasets.in_memory_dataset import (OWN_KEYS, PART_KEYS,
                                                    takes_part)
from mcod_plugin.datasets.split import check_per_class, select_images
from mcod_plugin.engine.optim_wrapper import BranchOptimWrapperConstructor
from mcod_plugin.models.utils.branch_settings import BranchSettings
from mcod_plugin.models.utils.input_size import guess_input_size
from mcod_plugin.models.utils.pretrained import take_pretrained
from mcod_plugin.registry import DATASETS, MODELS

__all__ = ['solo_optim_wrapper', 'solo_runner', 'toolbox_loader']

# Epochs that no benchmark lives to see the end of.
FOREVER = 10**5

# What a plain OptimWrapper takes, and its constructor.
OPTIM_KEYS = ('optimizer', 'accumulative_counts', 'clip_grad', 'constructor',
              'paramwise_cfg')

# What a branch's config says only for the cohort.
COHORT_KEYS = ('frozen', 'loss_weight')


def solo_runner(cfg: Any, name: str, workers: int, folder: str) -> Runner:
    """The toolbox's runner of one branch, by the toolbox's own defaults.

    The classifier, its data, optimizer and learning rate are those of the
    cohort's config, and the branch's own where it has some; images of another
    size than the data's are resized in the pipeline. Single precision, memory
    format, optimizer wrapper, hooks and environment are those of the toolbox.
    It never ends or validates of its own accord.

    Args:
        cfg (Config): The cohort's config.
        name (str): The branch.
        workers (int): Number of worker processes of each data loader.
        folder (str): The work directory.

    Returns:
        Runner: The runner.
    """
    classifier, branch, size = _classifier(cfg, name)
    size = None if branch.input_size == size else branch.input_size
    optim_wrapper = solo_optim_wrapper(cfg.optim_wrapper, branch)
    runtime = get_config('mmpretrain::_base_/default_runtime.py')
    runtime.default_hooks.checkpoint.interval = FOREVER
    # It is no argument of the runner's, but a name used in the visualizer.
    runtime.pop('vis_backends')
    settings = dict(
        runtime,
        work_dir=folder,
        train_dataloader=toolbox_loader(cfg.train_dataloader, workers, size),
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
        topk = cfg.val_evaluator.get('topk', (1, ))
        settings.update(
            val_dataloader=toolbox_loader(cfg.val_dataloader, workers, size),
            val_cfg=dict(),
            val_evaluator=dict(type='Accuracy', topk=topk))
    return Runner(model=classifier, cfg=Config(settings), **settings)


def solo_optim_wrapper(cfg: dict, branch: BranchSettings) -> dict:
    """The config of an optimizer wrapper for one branch alone.

    Args:
        cfg (dict): The cohort's.
        branch (BranchSettings): The branch's settings.

    Returns:
        dict: The config, with the branch's learning rate and weight decay.
    """
    cfg = copy.deepcopy(cfg)
    if is_part(cfg, BranchOptimWrapperConstructor, 'constructor'):
        del cfg['constructor']
    for key, factor in (('lr', branch.lr_mult), ('weight_decay',
                                                 branch.decay_mult)):
        if factor != 1:
            cfg['optimizer'][key] *= factor
    return cfg


def toolbox_loader(loader: dict,
                   workers: int,
                   size: Optional[Tuple[int, int]] = None) -> dict:
    """A data loader's config with the toolbox's pipeline and defaults.

    Args:
        loader (dict): The loader's config.
        workers (int): Number of its worker processes.
        size (tuple[int, int], optional): Height and width in pixels to which
            the images are brought at the end. Defaults to their own.

    Returns:
        dict: The config.
    """
    loader = copy.deepcopy(loader)
    _restore_sources(loader)
    if size is not None:
        _resize_at_the_end(loader, size)
    loader.update(
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=is_cuda_available(),
        collate_fn=dict(type='default_collate'))
    return loader


def _restore_sources(value: Any) -> None:
    """Put the toolbox's data sets in the place of those in memory."""
    for _, dataset in walk(value):
        if is_part(dataset, InMemoryDataset):
            part = {
                key: dataset[key]
                for key in PART_KEYS if takes_part(dataset) and key in dataset
            }
            own = {key: dataset.pop(key, None) for key in OWN_KEYS}
            dataset['type'] = own['source']
            if part:
                dataset.update(
                    part,
                    type='mcod_plugin.select_source',
                    source=own['source'])


@DATASETS.register_module()
def select_source(source: str,
                  label: str = 'fine',
                  classes: Union[str, Sequence[Union[str, int]], None] = None,
                  per_class: Optional[Sequence[Optional[int]]] = None,
                  **settings) -> Any:
    """The toolbox's data set with a part of its images.

    As ``indices`` their numbers would stand in the config, which would take
    half a minute to print.

    Args:
        source (str): The ``type`` of the data set.
        label (str): See :class:`InMemoryDataset`, as for the next two.
            Defaults to ``'fine'``.
        classes (str | Sequence[str | int], optional): Defaults to None.
        per_class (tuple[int, int | None], optional): Defaults to None.
        **settings: All other arguments of the data set.

    Returns:
        BaseDataset: The data set.
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


def _resize_at_the_end(value: Any, size: Tuple[int, int]) -> None:
    """Let all pipelines within a config resize the images that they pack."""
    height, width = size
    for _, steps in walk(value):
        if isinstance(steps, list):
            for index, step in enumerate(steps):
                if is_part(step, PackInputs):
                    steps.insert(index,
                                 dict(type='Resize', scale=(width, height)))
                    break


def _classifier(cfg: Any,
                name: str) -> Tuple[Any, BranchSettings, Tuple[int, int]]:
    """The branch as it stands alone, in the default memory format; its
    settings, and the size of the data's images."""
    model = copy.deepcopy(cfg.model)
    # What the cohort's runner would find out.
    size = model.get('input_size') or data_input_size(
        cfg.get(key) for key in reversed(LOADERS))
    preprocessor = dict(
        model.get('data_preprocessor') or cfg.get('data_preprocessor') or {})
    branch = model.branches[name]
    cohort = MODELS.build(
        dict(
            type=model.type,
            branches={
                name: {
                    key: value
                    for key, value in branch.items() if key not in COHORT_KEYS
                }
            },
            memory_format='contiguous',
            input_size=size or guess_input_size(model.branches),
            data_preprocessor=preprocessor))
    classifier = cohort.branches[name]
    # Weights to start from make nothing faster, and the toolbox would run
    # what else their files hold.
    take_pretrained(classifier)
    settings = cohort.branch_settings[name]
    known = inspect.signature(ClsDataPreprocessor).parameters
    preprocessor = {
        key: value
        for key, value in preprocessor.items() if key in known
    }
    if settings.mean is not None:
        preprocessor.update(mean=settings.mean, std=settings.std)
    if model.get('train_cfg') is not None:
        preprocessor.setdefault('batch_augments', model.train_cfg)
    classifier.data_preprocessor = MMPRETRAIN_MODELS.build(
        dict(preprocessor, type='ClsDataPreprocessor'))
    return classifier, settings, cohort.input_size
