"""Opening again what was written, and comparing it with its branch."""
import os.path as osp
import tempfile
from typing import Dict, Mapping, NamedTuple, Optional, Tuple

import numpy as np
import torch.nn as nn

from mcod_plugin.errors import ConfigError
from .branch_model import BranchModel
from .cohort import branch_pixels
from .verify import Job, check_logits, reload_logits

__all__ = ['TOOLBOX_FORMATS', 'Reopened', 'reopen']

# Those that are opened with the toolbox, and so with what a config imports.
TOOLBOX_FORMATS = ('mmpretrain', 'safetensors')


class Reopened(NamedTuple):
    """What was found of an export.

    Attributes:
        logits (np.ndarray): Its logits ``(N, num_classes)``.
        difference (float): Largest difference from those in the cohort.
        needs_plugin (bool): Whether it has parts of this plugin.
    """

    logits: np.ndarray
    difference: float
    needs_plugin: bool


def reopen(
    cohort: nn.Module,
    models: Mapping[str, BranchModel],
    places: Mapping[Tuple[str, str], str],
    pixels: np.ndarray,
    wanted: Mapping[str, np.ndarray],
    folder: str,
    faults: Optional[Dict[Tuple[str, str], ConfigError]] = None
) -> Dict[Tuple[str, str], Reopened]:
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
        dict[tuple[str, str], Reopened]: By branch and format, as given; those
        with faults are left out.

    Raises:
        ConfigError: If one cannot be opened, or gives other logits, and there
            is no room for faults.
    """
    # With and without this plugin.
    jobs: Dict[bool, Dict[Tuple[str, str], Job]] = {False: {}, True: {}}
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
            # The user's own modules may import it, whatever the branch needs.
            plugin = format in TOOLBOX_FORMATS and bool(
                models[name].custom_imports)
            jobs[plugin][name, format] = Job(
                format=format,
                folder=place,
                images=saved[size],
                order=models[name].data_order,
                logits=osp.join(work, f'{name}_{format}.npy'))
        for plugin, group in jobs.items():
            logits = reload_logits(list(group.values()), len(pixels), plugin)
            for (name, format), values in zip(group, logits):
                try:
                    if isinstance(values, ConfigError):
                        raise values
                    difference = check_logits(name, format, values,
                                              wanted[name])
                except ConfigError as error:
                    if faults is None:
                        raise
                    faults[name, format] = error
                    continue
                found[name, format] = Reopened(
                    values, difference, plugin and models[name].needs_plugin)
    return {key: found[key] for key in places if key in found}
