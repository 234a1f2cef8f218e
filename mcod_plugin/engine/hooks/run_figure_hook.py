import os.path as osp
import time
from importlib.util import find_spec
from typing import Dict, Optional

import numpy as np
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.visualization import LocalVisBackend
from PIL import Image

from mcod_plugin.errors import one_line
from mcod_plugin.registry import HOOKS
from mcod_plugin.runs.curves import draw_run
from mcod_plugin.utils.units import progress
from .run_record_hook import RunRecordHook

# Its name in the work directory.
FIGURE = 'curves.png'
# From one picture to the next it takes so many times as long as to draw it.
REST = 50


@HOOKS.register_module()
class RunFigureHook(Hook):
    """Draw the course of a run while it trains: accuracy and loss of each
    branch, and the weight of the distillation as it took effect.

    The picture is ``curves.png`` in the work directory. It is drawn after a
    validation, unless the last one is so recent that drawing would take more
    than two hundredths of the time, and at the end of the run. Backends of
    the visualizer other than the local one, such as
    ``TensorboardVisBackend``, get it as well.

    :class:`CohortRunner` registers it; ``default_hooks.run_figure=None``
    leaves it out. Without Matplotlib there is no picture.
    """

    # After what is recorded.
    priority = 'LOW'
    _record: Optional[RunRecordHook] = None

    def before_train(self, runner: Runner) -> None:
        """Find the record, and see whether it can be drawn."""
        self._next = 0.
        self._record = next(
            (hook for hook in runner.hooks if isinstance(hook, RunRecordHook)),
            None)
        if not is_main_process():
            self._record = None
        if self._record is not None and find_spec('matplotlib') is None:
            self._record = None
            runner.logger.info(
                f'{FIGURE} is not drawn, since Matplotlib is missing; pip '
                "install -e '.[viz]' installs it.")

    def after_val_epoch(self,
                        runner: Runner,
                        metrics: Optional[Dict[str, float]] = None) -> None:
        """Draw, if it is time to."""
        if self._record is not None and time.monotonic() >= self._next:
            self._draw(runner)

    def after_train(self, runner: Runner) -> None:
        """Draw the whole run."""
        if self._record is not None:
            self._draw(runner)
            self._record = None

    def _draw(self, runner: Runner) -> None:
        start = time.monotonic()
        path = osp.join(runner.work_dir, FIGURE)
        try:
            if draw_run(self._record.so_far(), path):
                self._hand_over(runner, path)
        except Exception as error:
            # A picture is no reason to end a training.
            self._record = None
            runner.logger.warning(
                f'{FIGURE} is not drawn any more: {one_line(error)}')
        now = time.monotonic()
        self._next = now + REST * (now - start)

    def _hand_over(self, runner: Runner, path: str) -> None:
        others = [
            backend for backend in runner.visualizer._vis_backends.values()
            if not isinstance(backend, LocalVisBackend)
        ]
        if others:
            with Image.open(path) as image:
                pixels = np.asarray(image.convert('RGB'))
            for backend in others:
                backend.add_image('curves', pixels, progress(runner)[1])
