import logging
import re
import sys
import time
from typing import Any, Optional

from mmengine.hooks import Hook
from mmengine.runner import Runner
from rich.progress import BarColumn, Progress, TextColumn

from mcod_plugin.registry import HOOKS
from mcod_plugin.utils.units import duration, progress

# Seconds from one look of the bar to the next.
PERIOD = 0.5
# What the bar tells instead, of each step that is logged.
STEPS = re.compile(r'(Epoch|Iter)\(train\)')


@HOOKS.register_module()
class ProgressBarHook(Hook):
    """Show on the terminal how far training is, how long it will still take,
    and the loss that was logged last.

    What the log tells appears above the bar, but for the lines of steps,
    which are in the log file. :class:`CohortRunner` registers it where the
    standard output is a terminal, unless ``default_hooks.progress_bar`` is
    None.
    """

    # After what others have to tell.
    priority = 'VERY_LOW'

    _bar: Optional[Progress] = None

    def before_train(self, runner: Runner) -> None:
        """Show the bar."""
        self._begin = self._shown = time.monotonic()
        self._first = runner.iter
        # Without a thread, which workers of data loaders would be forked
        # beside.
        self._bar = Progress(
            TextColumn('{task.description}'),
            BarColumn(),
            TextColumn('{task.percentage:>3.0f} %'),
            TextColumn('{task.fields[note]}'),
            auto_refresh=False,
            transient=True)
        self._task = self._bar.add_task(
            'training', total=runner.max_iters, note='')
        self._bar.start()
        self._handlers = [
            handler for handler in runner.logger.handlers
            if isinstance(handler, logging.StreamHandler)
            and not isinstance(handler, logging.FileHandler)
        ]
        self._streams = [handler.stream for handler in self._handlers]
        for handler in self._handlers:
            # What the bar has put in its place writes above it.
            handler.setStream(sys.stdout)
            handler.addFilter(_is_no_step)

    def after_train_iter(self,
                         runner: Runner,
                         batch_idx: int,
                         data_batch: Any = None,
                         outputs: Optional[dict] = None) -> None:
        """Let the bar grow, once in a while."""
        if self._is_due():
            unit, done, total = progress(runner)
            self._show(runner, f'{unit} {done + 1}/{total}', runner.iter + 1)

    def after_val_iter(self,
                       runner: Runner,
                       batch_idx: int,
                       data_batch: Any = None,
                       outputs: Any = None) -> None:
        """Tell that it is being validated."""
        if self._bar is not None and self._is_due():
            self._show(
                runner, f'validation {batch_idx + 1}/'
                f'{len(runner.val_dataloader)}', runner.iter)

    def after_train(self, runner: Runner) -> None:
        """Take the bar away."""
        self.stop()

    def _is_due(self) -> bool:
        return time.monotonic() - self._shown >= PERIOD

    def _show(self, runner: Runner, text: str, done: int) -> None:
        self._shown = time.monotonic()
        notes = []
        if done > self._first:
            passed = self._shown - self._begin
            left = passed * (runner.max_iters - done) / (done - self._first)
            notes.append(f'{duration(left)} left')
        # As it was logged: to look at that of the step would wait for it.
        losses = runner.message_hub.log_scalars.get('train/loss')
        if losses is not None:
            notes.append(f'loss {losses.current():.4g}')
        self._bar.update(
            self._task,
            completed=done,
            description=text,
            note=', '.join(notes),
            refresh=True)

    def stop(self) -> None:
        """Take the bar away, which has hidden the cursor and stands in the
        way of what is printed. :class:`CohortRunner` does so however a run
        ends."""
        if self._bar is None:
            return
        for handler, stream in zip(self._handlers, self._streams):
            handler.setStream(stream)
            handler.removeFilter(_is_no_step)
        self._bar.stop()
        self._bar = None


def _is_no_step(record: logging.LogRecord) -> bool:
    return not STEPS.match(record.getMessage())
