"""Taking branches out of a cohort."""
import os
import os.path as osp
import shutil
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from mcod_plugin.alone.branch_model import branch_model
from mcod_plugin.alone.cohort import (branch_logits, class_names, load_cohort,
                                      origin)
from mcod_plugin.alone.data import source_loader
from mcod_plugin.alone.files import (file_sizes, write_mmpretrain,
                                     write_safetensors, write_timm)
from mcod_plugin.alone.images import Images, validation_images
from mcod_plugin.alone.reopen import MMPRETRAIN_FORMATS, reopen
from mcod_plugin.config.input_size import data_input_size, parse_input_size
from mcod_plugin.engine.hooks.divergence_watch import diverged_branches
from mcod_plugin.errors import ConfigError, nearest, one_line
from mcod_plugin.runs.tables import render
from mcod_plugin.utils.checkpoint import read_checkpoint
from mcod_plugin.utils.files import new_folder, remove_empty
from mcod_plugin.utils.machine import require_packages
from mcod_plugin.utils.units import file_size
from .onnx_format import write_onnx

__all__ = ['FORMATS', 'Export', 'Exports', 'export_branches', 'report']

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
        own_packages (list[str]): Packages of the user's own without which it
            cannot be opened.
    """

    branch: str
    format: str
    files: Dict[str, int]
    difference: float
    metrics: Dict[str, float]
    needs_plugin: bool
    tests_need_plugin: bool
    own_packages: List[str]


class Exports(NamedTuple):
    """What was exported.

    Attributes:
        items (list[Export]): By branch and format, the best branch first.
        metrics (dict[str, dict]): Those of the branches in the cohort.
        images (str): What they were compared on.
        averaged (bool): Whether the weights are averages over the run.
        left_out (dict[tuple[str, str], str]): By branch and format, why an
            export of ``'all'`` could not be had.
    """

    items: List[Export]
    metrics: Dict[str, Dict[str, float]]
    images: str
    averaged: bool
    left_out: Dict[Tuple[str, str], str] = {}


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
    Of ``'all'`` branches those exports are written that can be had.

    Args:
        cfg (Config): The cohort's config.
        checkpoint (str): A checkpoint of it.
        branches (Sequence[str]): Names of branches, or ``'all'``.
        formats (Sequence[str]): Some of :data:`FORMATS`.
        out (str): The folder to write to. An export lies in
            ``<out>/<branch>/<format>``, which must not be there.
        limit (int): The most validation images. Defaults to 10000.
        verify_accuracy (bool): Whether validation images must be there.
            Defaults to False.

    Returns:
        Exports: What was written.

    Raises:
        ConfigError: If it cannot be done, or an export is not its branch; of
            ``'all'`` branches, if that is so of every export.
    """
    formats = list(dict.fromkeys(formats))
    for format in formats:
        require_packages(f'--format {format}', PACKAGES.get(format, ()),
                         'export')
    names = _branch_names(cfg, branches)
    parts = [f'{name}/{format}' for name in names for format in formats]
    with new_folder(out, parts=parts) as folder:
        content = read_checkpoint(checkpoint)
        # None if what fails is to be raised.
        faults = {} if _all_are_meant(cfg, branches) else None
        left_out = {}
        for name, when in diverged_branches(content).items():
            if name not in names:
                continue
            names.remove(name)
            text = (f'in the run of {checkpoint} it diverged in iteration '
                    f'{when["iteration"]} and was left out')
            if faults is None:
                raise ConfigError(
                    f'--branch {name}: {text}; export '
                    f'{", ".join(names) or "another branch"}')
            left_out.update({(name, format): text for format in formats})
        cohort = load_cohort(cfg, checkpoint, content)
        images = _images(cfg, cohort, limit, verify_accuracy)
        wanted = branch_logits(cohort, images.pixels, names)
        metrics = {name: _top1(wanted[name], images.labels) for name in names}
        classes = class_names(content, images, cohort.num_classes)
        source = origin(cfg, checkpoint, content)
        models, places = {}, {}
        for name in names:
            for format in formats:
                place = osp.join(folder, name, format)
                os.makedirs(place)
                try:
                    if name not in models:
                        models[name] = branch_model(cfg, cohort, name, images,
                                                    classes, source)
                        if metrics[name]:
                            models[name].metrics = dict(
                                metrics[name], images=images.source)
                    WRITERS[format](models[name], place)
                except ConfigError as error:
                    if faults is None:
                        raise
                    faults[name, format] = error
                else:
                    places[name, format] = place
        found = reopen(cohort, models, places, images.pixels, wanted, folder,
                       faults)
        for (name, format), error in (faults or {}).items():
            shutil.rmtree(osp.join(folder, name, format))
            remove_empty([osp.join(folder, name)])
            left_out[name, format] = one_line(error)
        if not found:
            raise ConfigError('no branch can be exported: ' + '; '.join(
                f'{name} as {format}: {reason}'
                for (name, format), reason in left_out.items()))
        items = []
        for (name, format), (logits, difference) in found.items():
            model, by_mmpretrain = models[name], format in MMPRETRAIN_FORMATS
            items.append(
                Export(
                    name,
                    format,
                    files=file_sizes(places[name, format]),
                    difference=difference,
                    metrics=_top1(logits, images.labels),
                    needs_plugin=by_mmpretrain and model.needs_plugin,
                    tests_need_plugin=(format == 'mmpretrain'
                                       and model.tests_need_plugin),
                    own_packages=model.own_packages if by_mmpretrain else []))
    items.sort(key=lambda item: -item.metrics.get('top1', 0))
    return Exports(items, metrics, images.source, 'ema_state_dict' in content,
                   left_out)


def _top1(logits: np.ndarray,
          labels: Optional[np.ndarray]) -> Dict[str, float]:
    """Accuracy in percent, as ``top1``; nothing if there are no labels."""
    if labels is None:
        return {}
    return dict(top1=100 * float((logits.argmax(1) == labels).mean()))


def _all_are_meant(cfg: Any, given: Sequence[str]) -> bool:
    """Whether ``'all'`` stands for all branches, instead of one so named."""
    return 'all' in given and 'all' not in cfg.model.branches


def _branch_names(cfg: Any, given: Sequence[str]) -> List[str]:
    """The names of the branches to export."""
    known = cfg.model.get('branches')
    if not isinstance(known, dict) or not known:
        raise ConfigError('the config holds no cohort: model.branches is '
                          'missing')
    if _all_are_meant(cfg, given):
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
        images = validation_images(cfg, limit)
        if images.labels is None and needed:
            raise ConfigError(f'{images.source}: they have not one label each')
        return images
    except ConfigError as error:
        if needed:
            raise ConfigError(f'--verify-accuracy: {error}') from error
        size = parse_input_size('input_size',
                                data_input_size([loader]) or cohort.input_size)
        pixels = np.random.default_rng(0).integers(
            0, 256, (32, cohort.in_channels, *size), dtype=np.uint8)
        return Images(pixels, None, None, '32 random images (no others could '
                      f'be had: {error})')


def report(exports: Exports) -> str:
    """A table of the exports, and what there is to say besides."""
    rows = [[
        item.branch, item.format,
        _files(item), f'{item.difference:.1e}',
        _percent(item.metrics),
        _percent(exports.metrics[item.branch])
    ] for item in exports.items]
    header = [
        'branch', 'format', 'files', 'max difference', 'top-1 %', 'in cohort'
    ]
    lines = [
        render(header, rows),
        'Opened in a fresh process and compared with the branch in its '
        f'cohort, on {exports.images}.'
    ]
    if exports.averaged:
        lines.append('The weights are averages over the run, of EMAHook.')
    own = dict.fromkeys(package for item in exports.items
                        for package in item.own_packages)
    for text, names in (
        ('have parts of mcod_plugin, which must be installed to open them as '
         'mmpretrain or safetensors', _names(exports.items, 'needs_plugin')),
        ("are tested on a data set of mcod_plugin's, which must be installed "
         "for MMPretrain's tools/test.py",
         _names(exports.items, 'tests_need_plugin')),
        (f'import {", ".join(own)} as their cohort does, which must be '
         'installed to open them as mmpretrain or safetensors',
         _names(exports.items, 'own_packages'))):
        if names:
            lines.append(f'{", ".join(names)}: {text}.')
    for (name, format), reason in exports.left_out.items():
        reason = reason.partition(f'--format {format}: ')[2] or reason
        lines.append(f'{name} as {format} is not exported: {reason}.')
    return '\n'.join(lines)


def _files(item: Export) -> str:
    return '\n'.join(f'{name} {file_size(size)}'
                     for name, size in item.files.items())


def _percent(metrics: dict) -> str:
    return f'{metrics["top1"]:.2f}' if metrics else ''


def _names(items: List[Export], key: str) -> List[str]:
    return list(
        dict.fromkeys(item.branch for item in items if getattr(item, key)))
