"""What the command line tools have in common."""
# What takes seconds to import is imported where it is used: ``--help`` and a
# mistyped file name need none of it.
import argparse
import multiprocessing
import os
import os.path as osp
import re
import shlex
import shutil
import signal
import sys
import tempfile
import warnings
from contextlib import contextmanager
from pathlib import Path
from traceback import walk_stack
from typing import Any, Callable, Iterator, List, NoReturn, Sequence, Tuple

from mcod_plugin.config.read import LOADERS, merge_options, read_config
from mcod_plugin.errors import ConfigError, TrainingError, nearest
from mcod_plugin.utils.files import check_folder
from mcod_plugin.utils.launchers import LAUNCHERS, adopt_ranks
from mcod_plugin.utils.process_end import (STOPPED, first_end,
                                           is_first_to_tell, leave_others,
                                           stop_code)

__all__ = [
    'ToolParser', 'add_config_arguments', 'add_study_arguments', 'busy',
    'dry_run', 'load_config', 'orderly_end', 'run_config', 'train',
    'user_errors'
]


class ToolParser(argparse.ArgumentParser):
    """A parser that tells a mistake in one line."""

    def parse_args(self, *args, **kwargs) -> argparse.Namespace:
        """Parse the command line."""
        args, unknown = self.parse_known_args(*args, **kwargs)
        if unknown:
            known = nearest(unknown[0], self._option_string_actions)
            self.error(
                f'there is no argument {unknown[0]}; {known}'.rstrip('; '))
        return args

    def error(self, message: str) -> NoReturn:
        """End the process with one line on stderr and exit code 2."""
        self.exit(2, f'error: {message}; see {self.prog} --help\n')


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of all tools that run a config, named as MMPretrain
    names them."""
    parser.add_argument(
        '--method',
        metavar='NAME|FILE',
        help='how the cohort is trained, instead of as the config says: a '
        'name in configs/methods, such as dml, or a file like those')
    _add_options(
        parser, 'settings that replace those of the config, such as '
        'train_cfg.max_epochs=2 or custom_hooks.0.weight=0,0')
    parser.add_argument(
        '--no-pin-memory',
        action='store_true',
        help='do not use pinned memory in data loaders')
    parser.add_argument(
        '--launcher',
        choices=LAUNCHERS,
        default='none',
        help='how several processes were started (default: none)')
    # torchrun sets the variable, older launchers pass the argument.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)


def _add_options(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action='extend',
        default=[],
        metavar='KEY=VALUE',
        help=text)


def _share(text: str) -> Tuple[int, int]:
    match = re.fullmatch(r'(\d+)/(\d+)', text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(
            f'must be I/N with I from 1 to N, such as 2/4; got {text!r}')
    return int(match[1]), int(match[2])


def add_study_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of all tools that train the runs of a study."""
    parser.add_argument('study', help='path of the study')
    parser.add_argument(
        '--work-dir',
        default=osp.join('work_dirs', 'studies'),
        help='where checkpoints and logs go (default: work_dirs/studies)')
    parser.add_argument(
        '--jobs',
        type=int,
        default=1,
        help='how many runs to train at a time (default: 1)')
    parser.add_argument(
        '--only',
        nargs='+',
        action='extend',
        default=[],
        metavar='GLOB',
        help='the runs to train, such as mcod_* *_seed0')
    parser.add_argument(
        '--shard',
        type=_share,
        default=(1, 1),
        metavar='I/N',
        help='only the I-th of N shares of the runs, where several machines '
        'cannot see by locks what the others are at')
    _add_options(
        parser, 'settings that replace those of all runs, such as '
        'train_dataloader.dataset.data_root=/data')


def load_config(args: argparse.Namespace, needs: Sequence[str]) -> Any:
    """Read the config, which must hold what the tool ``needs``, and merge the
    arguments that all tools share, see :func:`add_config_arguments`.
    ``work_dir`` is from the command line, else from the file, else named after
    it and the method."""
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    adopt_ranks(args.launcher)
    cfg = read_config(args.config)
    if args.method is not None:
        from mcod_plugin.config.methods import apply_method, find_method
        apply_method(cfg, find_method(args.method))
        cfg.method = Path(args.method).stem
    merge_options(cfg, args.cfg_options)
    for name in needs:
        if cfg.get(name) is None:
            raise ConfigError(f'config {args.config} lacks the setting {name}')
    cfg.launcher = args.launcher
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        # A method has a folder of its own, beside that of the config.
        names = [
            Path(path).stem for path in (args.config, args.method) if path
        ]
        cfg.work_dir = osp.join('work_dirs', '_'.join(names))
    from mmengine.device import is_cuda_available
    for name in LOADERS:
        loader = cfg.get(name)
        if loader is not None:
            loader.setdefault('collate_fn', dict(type='default_collate'))
            loader.setdefault('pin_memory', True)
            if args.no_pin_memory or not is_cuda_available():
                loader.pin_memory = False
    return cfg


def run_config(cfg: Any, action: Callable[[Any], Any]) -> Any:
    """Build the runner of a config and have an action take it, whose result is
    returned.

    What goes wrong before the first epoch has begun is a mistake in a setting
    or a file: a :class:`ConfigError` tells it, and the work directory is left
    as it was. Later on, an error is raised as it is.
    """
    from mcod_plugin.config.explain import explain
    from mcod_plugin.config.parts import type_name
    from mcod_plugin.registry import RUNNERS
    if cfg.get('runner_type') is None:
        cfg.runner_type = 'mcod_plugin.CohortRunner'
    if 'FlexibleRunner' in type_name(dict(type=cfg.runner_type)):
        raise ConfigError(
            f'runner_type {cfg.runner_type!r} is not supported: its '
            'strategies replace the training step; leave it out, and see '
            '--launcher for several processes')
    _check_work_dir(cfg.work_dir)
    runner = None
    try:
        runner = RUNNERS.build(cfg)
        return action(runner)
    except BaseException as error:
        # Of a runner that is not ours it is not known.
        if getattr(runner, 'started', runner is not None):
            raise
        if runner is not None:
            runner.undo()
        if stop_code(error) is not None or not isinstance(error, Exception):
            raise
        raise explain(cfg, error) from error


def _check_work_dir(work_dir: Any) -> None:
    if not isinstance(work_dir, str):
        raise ConfigError('work_dir must be the path of a folder, a text; got '
                          f'{work_dir!r}')
    check_folder('work_dir', work_dir)


class Stopped(SystemExit):
    """The end of a run that was stopped.

    Args:
        code (int): The exit code.
        standing (str): Where the run stands, and how to go on.
    """

    def __init__(self, code: int, standing: str) -> None:
        super().__init__(code)
        self.standing = standing


@contextmanager
def orderly_end(trains: bool = False) -> Iterator[None]:
    """Let the block clean up and end the process if it is stopped, by SIGTERM
    or by Ctrl-C: there is no traceback, nothing half-written stays, and no
    process of its own. The exit code is 128 and the signal's number. If it
    ``trains``, one line on stderr tells where the run stands, and how to go
    on."""
    owner, code = os.getpid(), 0

    def stop(number: int, frame: Any) -> None:
        nonlocal code
        if os.getpid() != owner:
            # A worker of a data loader. Its owner would take another exit
            # code for a fault.
            os._exit(0)
        if stop_code(sys.exc_info()[1]) is not None:
            return  # Launchers repeat it, while the block cleans up.
        if number != signal.SIGALRM:
            code = 128 + number
        # PyTorch would report workers that are gone, and they that this
        # process does not listen any more. One may be gone already: Python
        # reports a signal whose handler is not its own by now.
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for child in multiprocessing.active_children():
            if child.daemon:
                child.kill()
        # What is raised within a destructor is printed and lost. Only the
        # stack that Python hands to a handler tells whether one is running;
        # the timer comes back when it is over.
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        if all(frame.f_code.co_name != '__del__'
               for frame, _ in walk_stack(frame)):
            sys.exit(code)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
        # A process in the background may be told to ignore it.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, stop)
    try:
        yield
    except BaseException as error:
        found = stop_code(error)
        if found is None:
            raise
        signal.setitimer(signal.ITIMER_REAL, 0)
        if (trains and os.environ.get('RANK', '0') == '0'
                and first_end(error).outcome == STOPPED):
            standing = getattr(error, 'standing',
                               f'before it began; {_command(sys.argv)}')
            print(
                f'stopped by {signal.Signals(found - 128).name} {standing}',
                file=sys.stderr)
        # Nothing is left to clean up that must not be stopped.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        sys.exit(found)


@contextmanager
def busy(text: str) -> Iterator[None]:
    """Show on a terminal that the block is still at what the text says."""
    from rich.console import Console
    with Console(stderr=True).status(text):
        yield


def train(runner: Any) -> None:
    """Train, and print what can be done next with what was trained. It may be
    stopped, see :func:`orderly_end`."""
    try:
        runner.train()
    except BaseException as error:
        end = first_end(error)
        if end.outcome != STOPPED or (end.is_own and stop_code(error) is None):
            raise
        raise Stopped(end.code, _standing(runner)) from error
    commands = _next_commands(runner)
    # The runs of a study are told of by its report.
    if (commands and os.environ.get('RANK', '0') == '0'
            and 'MCOD_STUDY' not in os.environ):
        print('\n'.join(['Next:', *commands]))


def dry_run(cfg: Any) -> None:
    """Do the first steps of a training, which must not be resumed, print what
    all of it will take, and leave nothing behind."""
    from mcod_plugin.engine.runner.dry_run import dry_run as first_steps
    if cfg.get('resume'):
        raise ConfigError('--dry-run does the first steps of a run, which '
                          'one that is resumed has behind it; leave out '
                          '--resume, or resume=True of the config')
    _check_work_dir(cfg.work_dir)
    # Its backends may write anywhere.
    cfg.visualizer = None
    with tempfile.TemporaryDirectory() as folder:
        cfg.work_dir = folder
        report = run_config(cfg, first_steps)
    if os.environ.get('RANK', '0') == '0':
        print(report)


def _next_commands(runner: Any) -> List[str]:
    """What can be done with a run that has finished, as it is typed."""
    checkpoints = _last_checkpoints(runner)
    config = osp.join(runner.work_dir, osp.basename(runner.cfg.filename or ''))
    if not checkpoints or not osp.isfile(config):
        return []
    from mmpretrain.utils import get_ori_model
    tools = osp.dirname(sys.argv[0])
    trained = [_here(config), _here(checkpoints[-1])]
    name = osp.basename(osp.normpath(runner.work_dir))
    commands = []
    if runner.cfg.get('test_dataloader') is not None:
        commands.append(['test.py', *trained])
    model = get_ori_model(runner.model)
    if hasattr(model, 'branches'):
        commands.append([
            'export.py', *trained, '--branch', 'all', '--format', 'mmpretrain',
            '--out',
            osp.join('exported', name)
        ])
        # Other cohorts have no card.
        if not (getattr(model, 'multi_label', False)
                or runner.message_hub.runtime_info.get('diverged')):
            commands.append([
                'publish.py',
                _here(runner.work_dir), '--out',
                osp.join('model_cards', name)
            ])
    return [
        shlex.join([_python(), osp.join(tools, tool), *args])
        for tool, *args in commands
    ]


def _last_checkpoints(runner: Any) -> List[str]:
    """What each of the hooks that save a run has saved last."""
    return [
        path for hook in runner.hooks
        if (path := getattr(hook, 'last_ckpt', None)) is not None
    ]


def _python() -> str:
    """The interpreter as it is typed: that of an environment that is not
    activated by its path."""
    found = shutil.which('python')
    own = sys.executable
    # The pythons of environments are links to one that they share.
    if found and own and osp.samefile(
            osp.dirname(found), osp.dirname(own)) and osp.samefile(found, own):
        return 'python'
    return _here(own) if own else 'python'


def _here(path: str) -> str:
    """A path as it is typed in the current folder."""
    if '://' in path:
        return path
    relative = osp.relpath(path)
    return path if relative.startswith(osp.pardir) else relative


def _standing(runner: Any) -> str:
    """Where a run that was stopped stands, and how to go on."""
    from mcod_plugin.utils.units import progress
    if not getattr(runner, 'started', True):
        return f'before the first epoch; {_command(sys.argv)}'
    unit, done, total = progress(runner)
    place = f'after {done} of {total} {unit}s'
    checkpoints = _last_checkpoints(runner)
    if not checkpoints:
        return f'{place} and before its first checkpoint; {_command(sys.argv)}'
    # Whatever it was resumed from.
    argv = [
        arg for arg, before in zip(sys.argv, ['', *sys.argv])
        if not (arg.startswith('--resume')
                or before == '--resume' and not arg.startswith('-'))
    ]
    return (f'{place}; the last checkpoint is {checkpoints[0]}; '
            f'{_command([*argv, "--resume"])}')


def _command(argv: Sequence[str]) -> str:
    """How to go on. Of several processes, only the launcher's user knows."""
    begin = '' if 'RANK' not in os.environ else 'by the same launcher '
    return f'go on {begin}with: {shlex.join([_python(), *argv])}'


@contextmanager
def user_errors() -> Iterator[None]:
    """End the process with one line on stderr if the block raises a
    :class:`ConfigError`, exit code 2, or a :class:`TrainingError`, exit code
    1. Of several processes one tells a reason that they share, and none what
    it was surprised by when another one ended."""
    # They tell of parts that this plugin does not use, on every start.
    warnings.filterwarnings('ignore', message='.*mmcv-lite.*')
    # What newer Pythons have to say of MMPretrain's and MMEngine's code.
    warnings.filterwarnings('ignore', '.*invalid escape', SyntaxWarning)
    warnings.filterwarnings('ignore', '.*find_loader', DeprecationWarning)
    try:
        yield
        leave_others()
    except (ConfigError, TrainingError) as error:
        if os.environ.get('MCOD_DEBUG') or stop_code(error) is not None:
            raise
        code = 2 if isinstance(error, ConfigError) else 1
        reason = error
        while reason.__cause__ is not None:
            reason = reason.__cause__
        # What has surprised this process may be the end of another.
        known = isinstance(reason, (ConfigError, TrainingError))
        is_own = first_end(error, code).is_own
        if (known or is_own) and is_first_to_tell(str(error)):
            rank = os.environ.get('RANK', '0')
            print(
                'error:',
                f'rank {rank}: ' * (rank != '0') +
                ' '.join(str(error).split()),
                file=sys.stderr)
        sys.exit(code)
    except Exception as error:
        # Another one that was stopped or failed has told why.
        if stop_code(error) is None and not first_end(error).is_own:
            sys.exit(1)
        raise
