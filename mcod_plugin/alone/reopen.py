"""Opening again what was written of a branch, and comparing the two."""
import json
import os.path as osp
import subprocess
import sys
import tempfile
from typing import Dict, List, Mapping, Optional, Tuple

import numpy as np
import torch.nn as nn

from mcod_plugin.errors import ConfigError
from .branch_model import BranchModel
from .cohort import branch_pixels
from .images import batches

__all__ = ['MMPRETRAIN_FORMATS', 'check_logits', 'reopen']

# Those that are opened by MMPretrain, and so with what a config imports.
MMPRETRAIN_FORMATS = ('mmpretrain', 'safetensors')
# Largest difference between logits, of logits of at most 1, else relative to
# the largest of them.
TOLERANCES = dict(mmpretrain=1e-5, safetensors=1e-5, timm=1e-5, onnx=1e-4)

Key = Tuple[str, str]


def reopen(
    cohort: nn.Module,
    models: Mapping[str, BranchModel],
    places: Mapping[Key, str],
    pixels: np.ndarray,
    wanted: Mapping[str, np.ndarray],
    folder: str,
    faults: Optional[Dict[Key, ConfigError]] = None
) -> Dict[Key, Tuple[np.ndarray, float]]:
    """Open exports in fresh processes, and compare them with their branches.

    Args:
        cohort (MultiBackboneClassifier): The cohort.
        models (Mapping[str, BranchModel]): The branches as they stand alone,
            by name.
        places (Mapping[tuple[str, str], str]): The folders of the exports, by
            branch and format.
        pixels (np.ndarray): Images ``(N, C, H, W)`` of the data set.
        wanted (Mapping[str, np.ndarray]): Logits ``(N, num_classes)`` of the
            branches in the cohort, by name.
        folder (str): A folder with room for the images. Nothing stays there.
        faults (dict[tuple[str, str], ConfigError], optional): It gets what
            is wrong with which of them. Defaults to None: whatever is wrong
            is raised.

    Returns:
        dict[tuple[str, str], tuple[np.ndarray, float]]: By branch and format,
        as given, the logits and their largest difference from those in the
        cohort; those with faults are left out.

    Raises:
        ConfigError: If one cannot be opened, or gives other logits, and there
            is no room for faults.
    """
    jobs: Dict[Key, dict] = {}
    # Branches that see the same images share a file.
    saved: Dict[object, str] = {}
    found = {}
    with tempfile.TemporaryDirectory(prefix='.', dir=folder) as work:
        for (name, format), place in places.items():
            settings = cohort.branch_settings[name]
            size = settings.input_size if settings.resized else None
            if size not in saved:
                saved[size] = osp.join(work, f'images_{len(saved)}.npy')
                np.save(saved[size], branch_pixels(cohort, name, pixels))
            jobs[name, format] = dict(
                format=format,
                folder=place,
                images=saved[size],
                order=models[name].data_order,
                logits=osp.join(work, f'{name}_{format}.npy'),
                # The user's own modules may import this plugin, whatever the
                # branch needs.
                plugin=format in MMPRETRAIN_FORMATS
                and bool(models[name].custom_imports))
        last_words = {
            plugin:
            _open([job for job in jobs.values() if job['plugin'] is plugin],
                  len(pixels), plugin, work)
            for plugin in (False, True)
        }
        for (name, format), job in jobs.items():
            try:
                logits = _logits(job, last_words[job['plugin']])
                difference = check_logits(name, format, logits, wanted[name])
            except ConfigError as error:
                if faults is None:
                    raise
                faults[name, format] = error
            else:
                found[name, format] = logits, difference
    return found


def _open(jobs: List[dict], number: int, plugin: bool, folder: str) -> str:
    """Open exports in a fresh process, which writes their logits of a number
    of images; return its last words."""
    if not jobs:
        return ''
    request = osp.join(folder, 'request.json')
    with open(request, 'w', encoding='utf-8') as file:
        json.dump(
            dict(plugin=plugin, batches=batches(number), jobs=jobs), file)
    script = osp.join(osp.dirname(__file__), 'fresh_process.py')
    # Its stdin is closed when this process ends, however that is.
    with subprocess.Popen([sys.executable, '-W', 'ignore', script, request],
                          stdin=subprocess.PIPE,
                          stdout=subprocess.DEVNULL,
                          stderr=subprocess.PIPE,
                          text=True) as process:
        lines = process.stderr.read().strip().splitlines() or ['']
        code = process.wait()
    return f'{lines[-1]} (exit code {code})'


def _logits(job: dict, last_words: str) -> np.ndarray:
    """The logits of an export; raise unless it could be opened."""
    if osp.isfile(job['logits']):
        return np.load(job['logits'])
    try:
        with open(job['logits'] + '.error') as file:
            reason = file.read()
    except FileNotFoundError:
        reason = last_words
    raise ConfigError(
        f'the export as {job["format"]} was withdrawn: it cannot be opened in '
        f'a fresh process: {reason}')


def check_logits(name: str, format: str, found: np.ndarray,
                 wanted: np.ndarray) -> float:
    """The largest difference between the logits ``(N, num_classes)`` of an
    export in some format and those of its branch in its cohort. Raise if it is
    more than rounding, or no number."""
    text = f'the export of {name} as {format} was withdrawn'
    if found.shape != wanted.shape:
        raise ConfigError(f'{text}: its logits are {found.shape} instead of '
                          f'{wanted.shape}')
    if not np.isfinite(wanted).all():
        raise ConfigError(f'{text}: the logits of the branch itself are not '
                          'finite; the run has diverged')
    difference = float(np.abs(found.astype(np.float64) - wanted).max())
    allowed = TOLERANCES[format] * max(1., float(np.abs(wanted).max()))
    # Not a number is not allowed either.
    if not difference <= allowed:
        raise ConfigError(f'{text}: its logits differ from those in the '
                          f'cohort by {difference:.3g}, allowed are '
                          f'{allowed:.3g}')
    return difference
