"""Taking branches out of a cohort."""
import importlib.util
import os
import os.path as osp
import shutil
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from mcod_plugin.errors import ConfigError, nearest
from mcod_plugin.models.utils.input_size import (data_input_size,
                                                 parse_input_size)
from mcod_plugin.utils.checkpoint import read_checkpoint
from mcod_plugin.utils.machine import describe_machine
from mcod_plugin.utils.new_folder import new_folder
from .branch_model import BranchModel
from .cohort import branch_logits, branch_model, branch_pixels, load_cohort
from .data_config import source_loader
from .images import Images, random_images, validation_images
from .mmpretrain_format import write_mmpretrain
from .onnx_format import write_onnx
from .safetensors_format import write_safetensors
from .timm_format import write_timm
from .verify import Job, check_logits, reload_logits, top1

__all__ = ['FORMATS', 'Export', 'Exports', 'export_branches']

WRITERS = dict(
    mmpretrain=write_mmpretrain,
    timm=write_timm,
    safetensors=write_safetensors,
    onnx=write_onnx)
FORMATS = tuple(WRITERS)

# What they need besides the plugin.
PACKAGES = dict(
    timm=('safetensors', ),
    safetensors=('safetensors', ),
    onnx=('onnx', 'onnxruntime'))


class Export(NamedTuple):
    """A branch in a format.

    Attributes:
        branch (str): The branch.
        format (str): The format.
        files (dict[str, int]): Size in bytes of each file.
        difference (float): Largest difference of its logits from those in the
            cohort.
        metrics (dict[str, float]): ``top1`` in percent, if there are labels.
        needs_plugin (bool): Whether it cannot be opened without this plugin.
        tests_need_plugin (bool): Whether its test cannot be run without.
    """

    branch: str
    format: str
    files: Dict[str, int]
    difference: float
    metrics: Dict[str, float]
    needs_plugin: bool
    tests_need_plugin: bool


class Exports(NamedTuple):
    """What was exported.

    Attributes:
        items (list[Export]): By branch and format, the best branch first.
        metrics (dict[str, dict]): Those of the branches in the cohort.
        images (str): What they were compared on.
        averaged (bool): Whether the weights are averages over the run.
    """

    items: List[Export]
    metrics: Dict[str, Dict[str, float]]
    images: str
    averaged: bool


def export_branches(cfg: Any,
                    checkpoint: str,
                    branches: Sequence[str],
                    formats: Sequence[str],
                    out: str,
                    limit: int = 10000,
                    verify_accuracy: bool = False) -> Exports:
    """Write branches of a cohort as models of their own.

    Each export is opened again in a fresh process, in which this plugin
    cannot be imported unless a part of the branch is its own, and must give
    the logits that the branch has in its cohort: on validation images, on
    random ones if there are none. Unless all of them do, nothing is written.

    Args:
        cfg (Config): The cohort's config.
        checkpoint (str): A checkpoint of it.
        branches (Sequence[str]): Names of branches, or ``'all'``.
        formats (Sequence[str]): Some of :data:`FORMATS`.
        out (str): The folder to write to, new or empty. An export lies in
            ``<out>/<branch>/<format>``.
        limit (int): The most validation images. Defaults to 10000.
        verify_accuracy (bool): Whether validation images must be there.
            Defaults to False.

    Returns:
        Exports: What was written.

    Raises:
        ConfigError: If it cannot be done, or an export is not its branch.
    """
    formats = list(dict.fromkeys(formats))
    _check_packages(formats)
    names = _branch_names(cfg, branches)
    with new_folder(out) as folder:
        content = read_checkpoint(checkpoint)
        cohort = load_cohort(cfg, checkpoint, content)
        images = _images(cfg, cohort, limit, verify_accuracy)
        wanted = branch_logits(cohort, names, images.pixels)
        metrics = {name: top1(wanted[name], images.labels) for name in names}
        models = {}
        for name in names:
            models[name] = branch_model(cfg, cohort, name, images,
                                        _classes(content, images),
                                        _origin(cfg, checkpoint, content))
            if metrics[name]:
                models[name].metrics = dict(
                    metrics[name], images=images.source)
        for name, model in models.items():
            for format in formats:
                place = osp.join(folder, name, format)
                os.makedirs(place)
                WRITERS[format](model, place)
        items = _verify(folder, cohort, models, formats, images, wanted)
    items.sort(key=lambda item: -item.metrics.get('top1', 0))
    return Exports(items, metrics, images.source, 'ema_state_dict' in content)


def _check_packages(formats: Sequence[str]) -> None:
    for format in formats:
        for package in PACKAGES.get(format, ()):
            if importlib.util.find_spec(package) is None:
                raise ConfigError(
                    f'--format {format} needs the package {package}, which is '
                    'not installed; get it with: pip install '
                    '"mcod-plugin[export]"')


def _branch_names(cfg: Any, given: Sequence[str]) -> List[str]:
    """The names of the branches to export."""
    known = cfg.model.get('branches')
    if not isinstance(known, dict) or not known:
        raise ConfigError('the config holds no cohort: model.branches is '
                          'missing')
    if 'all' in given and 'all' not in known:
        return list(known)
    for name in given:
        if name not in known:
            raise ConfigError(
                f'--branch {name}: the branches are {", ".join(known)}; '
                f'{nearest(name, known)}'.rstrip('; '))
    return list(dict.fromkeys(given))


def _images(cfg: Any, cohort: Any, limit: int, needed: bool) -> Images:
    """The images to compare on."""
    loader = source_loader(cfg)
    try:
        return validation_images(cfg, limit)
    except ConfigError as error:
        if needed:
            raise ConfigError(f'--verify-accuracy: {error}') from error
        size = data_input_size([loader]) or cohort.input_size
        return random_images(cohort.in_channels,
                             parse_input_size('input_size', size),
                             f'no others could be had: {error}')


def _classes(content: dict, images: Images) -> Any:
    """Names of the classes, if they are known."""
    meta = content.get('meta') or {}
    classes = (meta.get('dataset_meta') or {}).get('classes') or images.classes
    return [str(name) for name in classes] if classes else None


def _origin(cfg: Any, checkpoint: str, content: dict) -> Dict[str, Any]:
    """Where an export comes from."""
    meta = content.get('meta') or {}
    origin = dict(
        config=osp.basename(cfg.filename or ''),
        checkpoint=osp.basename(checkpoint),
        versions=describe_machine()['versions'])
    for key in ('epoch', 'iter', 'seed'):
        if isinstance(meta.get(key), int):
            origin[key] = meta[key]
    return origin


def _verify(folder: str, cohort: Any, models: Dict[str, BranchModel],
            formats: Sequence[str], images: Images,
            wanted: Dict[str, np.ndarray]) -> List[Export]:
    """Open all exports again, and compare them."""
    work = osp.join(folder, '.work')
    os.makedirs(work)
    groups = {False: [], True: []}
    # Branches that see the same images share a file.
    files, saved = {}, {}
    for name, model in models.items():
        size = _own_size(cohort, name)
        if size not in saved:
            saved[size] = osp.join(work, f'images_{len(saved)}.npy')
            np.save(saved[size], branch_pixels(cohort, name, images.pixels))
        for format in formats:
            place = osp.join(folder, name, format)
            files[name, format] = {
                file: osp.getsize(osp.join(place, file))
                for file in sorted(os.listdir(place))
            }
            groups[_needs_plugin(model, format)].append((name, format))
    items = []
    for plugin, members in groups.items():
        jobs = [
            Job(format=format,
                folder=osp.join(folder, name, format),
                images=saved[_own_size(cohort, name)],
                order=models[name].data_order,
                logits=osp.join(work, f'{name}_{format}.npy'))
            for name, format in members
        ]
        found = reload_logits(jobs, len(images.pixels), plugin)
        for (name, format), logits in zip(members, found):
            model = models[name]
            items.append(
                Export(name, format, files[name, format],
                       check_logits(name, format, logits, wanted[name]),
                       top1(logits, images.labels), plugin,
                       format == 'mmpretrain' and model.tests_need_plugin))
    shutil.rmtree(work)
    order = [(name, format) for name in models for format in formats]
    return sorted(
        items, key=lambda item: order.index((item.branch, item.format)))


def _own_size(cohort: Any, name: str) -> Optional[Tuple[int, int]]:
    """The size to which a branch has its images brought, if it does."""
    settings = cohort.branch_settings[name]
    return settings.input_size if settings.resized else None


def _needs_plugin(model: BranchModel, format: str) -> bool:
    return format in ('mmpretrain', 'safetensors') and model.needs_plugin
