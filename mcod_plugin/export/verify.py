"""Comparing what was written with what it was written from."""
import json
import os.path as osp
import subprocess
import sys
from typing import Any, Dict, List, NamedTuple, Optional, Tuple, Union

import numpy as np

from mcod_plugin.errors import ConfigError

__all__ = [
    'Job', 'allowed_difference', 'batches', 'check_logits', 'reload_logits',
    'top1'
]

# Largest difference between logits, of logits of at most 1, else relative to
# the largest of them.
TOLERANCES = dict(mmpretrain=1e-5, safetensors=1e-5, timm=1e-5, onnx=1e-4)

BATCH_SIZE = 64


class Job(NamedTuple):
    """An export to be opened.

    Attributes:
        format (str): Its format.
        folder (str): Where it lies.
        images (str): The ``.npy`` file of the images.
        order (str): The order of their channels.
        logits (str): The ``.npy`` file to write the logits to.
    """

    format: str
    folder: str
    images: str
    order: str
    logits: str


def batches(number: int) -> List[Tuple[int, int]]:
    """Begin and end of each batch.

    Args:
        number (int): Number of images.

    Returns:
        list[tuple[int, int]]: The first batch is one image, so that sizes
        differ.
    """
    begins = [0, *range(1, number, BATCH_SIZE)]
    return list(zip(begins, [*begins[1:], number]))


def reload_logits(jobs: List[Job], number: int,
                  plugin: bool) -> List[Union[np.ndarray, ConfigError]]:
    """Open exports in a fresh process, and have it compute logits.

    Args:
        jobs (list[Job]): The exports.
        number (int): Number of images.
        plugin (bool): Whether the process may import this plugin.

    Returns:
        list[np.ndarray | ConfigError]: Logits ``(N, num_classes)`` of each, or
        why it cannot be opened.
    """
    if not jobs:
        return []
    request = dict(
        plugin=plugin,
        batches=batches(number),
        jobs=[job._asdict() for job in jobs])
    script = osp.join(osp.dirname(__file__), 'fresh_process.py')
    done = subprocess.run([sys.executable, '-W', 'ignore', script],
                          input=json.dumps(request),
                          capture_output=True,
                          text=True)
    found = []
    for job in jobs:
        if osp.isfile(job.logits):
            found.append(np.load(job.logits))
        else:
            found.append(
                ConfigError(
                    f'the export as {job.format} was withdrawn: it cannot be '
                    f'opened in a fresh process: {_reason(job, done)}'))
    return found


def _reason(job: Job, done: Any) -> str:
    try:
        with open(job.logits + '.error') as file:
            return file.read()
    except FileNotFoundError:
        lines = done.stderr.strip().splitlines() or ['']
        return f'{lines[-1]} (exit code {done.returncode})'


def allowed_difference(format: str, logits: np.ndarray) -> float:
    """The largest difference that rounding may make.

    Args:
        format (str): The format.
        logits (np.ndarray): Logits ``(N, num_classes)`` of the branch.

    Returns:
        float: The difference.
    """
    return TOLERANCES[format] * max(1., float(np.abs(logits).max()))


def check_logits(name: str, format: str, found: np.ndarray,
                 wanted: np.ndarray) -> float:
    """Raise unless an export gives the logits of its branch.

    Args:
        name (str): The branch.
        format (str): The format.
        found (np.ndarray): Logits ``(N, num_classes)`` of the export.
        wanted (np.ndarray): Those of the branch in its cohort.

    Returns:
        float: The largest difference.

    Raises:
        ConfigError: If they differ by more than rounding, or are no numbers.
    """
    text = f'the export of {name} as {format} was withdrawn'
    if found.shape != wanted.shape:
        raise ConfigError(f'{text}: its logits are {found.shape} instead of '
                          f'{wanted.shape}')
    if not np.isfinite(wanted).all():
        raise ConfigError(f'{text}: the logits of the branch itself are not '
                          'finite; the run has diverged')
    difference = float(np.abs(found.astype(np.float64) - wanted).max())
    allowed = allowed_difference(format, wanted)
    # Not a number is not allowed either.
    if not difference <= allowed:
        raise ConfigError(f'{text}: its logits differ from those in the '
                          f'cohort by {difference:.3g}, allowed are '
                          f'{allowed:.3g}')
    return difference


def top1(logits: np.ndarray, labels: Optional[np.ndarray]) -> Dict[str, float]:
    """Accuracy in percent.

    Args:
        logits (np.ndarray): Logits ``(N, num_classes)``.
        labels (np.ndarray | None): The labels ``(N, )``.

    Returns:
        dict[str, float]: ``top1``; empty if there are no labels.
    """
    if labels is None:
        return {}
    return dict(top1=100 * float((logits.argmax(1) == labels).mean()))
