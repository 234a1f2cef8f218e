import logging
import re
from typing import Dict, List, Sequence, Tuple

from mmengine.runner import LogProcessor, Runner
from mmpretrain.utils import get_ori_model

from mcod_plugin.errors import check_integer

# What MMEngine tells of every run, or of every parameter.
REPEATED = re.compile(
    r'Config:\n|\n-+\nSystem environment:|Hooks will be executed in|'
    r'paramwise_options -- |\S+ is skipped since its requires_grad|'
    r'Exp name: |Distributed training is not used|'
    r'Checkpoints will be saved to |Saving checkpoint at |'
    r'The (previous )?best checkpoint |backbone out_|'
    r'"(FileClient|HardDiskBackend)" ')


class CohortLogProcessor(LogProcessor):
    """MMEngine's log processor, which gives each branch of a cohort a line of
    its own, in the order of the branches; the ensemble comes last.

    The arguments are those of :class:`mmengine.runner.LogProcessor`.

    Raises:
        ConfigError: If ``window_size`` is no number of iterations.
    """

    def __init__(self, window_size: int = 10, *args, **kwargs) -> None:
        check_integer('log_processor.window_size', window_size)
        super().__init__(window_size, *args, **kwargs)

    def get_log_after_iter(self, runner: Runner, batch_idx: int,
                           mode: str) -> Tuple[dict, str]:
        """What is logged of an iteration; see MMEngine."""
        tag, text = super().get_log_after_iter(runner, batch_idx, mode)
        return tag, line_by_branch(text, _names(runner))

    def get_log_after_epoch(self, runner: Runner, batch_idx: int, mode: str,
                            *args, **kwargs) -> Tuple[dict, str]:
        """What is logged of an evaluation; see MMEngine."""
        tag, text = super().get_log_after_epoch(runner, batch_idx, mode, *args,
                                                **kwargs)
        return tag, line_by_branch(text, _names(runner))


def _names(runner: Runner) -> List[str]:
    model = get_ori_model(runner.model)
    # Test-time augmentation wraps the cohort.
    model = getattr(model, 'module', model)
    return [*getattr(model, 'branches', ()), 'teacher', 'ensemble']


def line_by_branch(text: str, names: Sequence[str]) -> str:
    """Break a line of the log, which tells things separated by two spaces, as
    ``resnet.loss_ce: 1.2345`` or ``resnet/top1: 67.8900``: what it tells of no
    branch, then a line for each of them, with four spaces before it. An array
    within is left where it is."""
    if '\n' in text:
        return text
    line: List[str] = []
    rows: Dict[str, List[str]] = {name: [] for name in names}
    # Learning rates have one space between them.
    for item in re.split(r'  | (?=\S+\.lr: )', text):
        name = re.match(r'[^\s./:]*', item)[0]
        rows.get(name if item[len(name):][:1] in ('.', '/') else '',
                 line).append(item)
    return '\n    '.join([
        '  '.join(line).rstrip(),
        *('  '.join(row) for row in rows.values() if row)
    ])


def quieten(logger: logging.Logger) -> None:
    """Keep what repeats to the log file of a run: its other handlers leave out
    the config, the environment, the list of hooks, the options of each
    parameter and the checkpoints that are written."""
    for handler in logger.handlers:
        if not isinstance(handler, logging.FileHandler):
            handler.addFilter(
                lambda record: not REPEATED.match(record.getMessage()))
