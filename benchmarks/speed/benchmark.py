"""Is a cohort cheaper than its networks alone?"""
import hashlib
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional
from typing import Sequence, Tuple

import torch
from mmengine.registry import init_default_scope
from rich.console import Console
from rich.progress import track

from mcod_plugin.engine.optim_wrapper import precision
from mcod_plugin.engine.runner import CohortRunner
from mcod_plugin.errors import ConfigError, check_choice
from mcod_plugin.utils.machine import describe_machine
from .branch_runner import branch_loader
from .cases import growth_cases, speed_cases
from .report import Measurement, growth_ratios, results, speed_ratios
from .workers import Workers

__all__ = ['run_benchmark']


def run_benchmark(cfg: Any,
                  rounds: int = 7,
                  seconds: float = 1.,
                  threads: Optional[int] = None,
                  only: Sequence[str] = (),
                  solo_workers: int = 2,
                  variants: Mapping[str, Any] = {},
                  growth: bool = False,
                  growth_branch: Optional[str] = None) -> Dict[str, Any]:
    """Time a cohort and its branches alone, one after the other in each
    round.

    Args:
        cfg (Config): The cohort's config.
        rounds (int): Number of samples of each case. Defaults to 7.
        seconds (float): The least length of a sample. Defaults to 1.
        threads (int, optional): Number of PyTorch's threads in each process.
            Defaults to PyTorch's choice.
        only (Sequence[str]): Patterns of names, to which the cases are
            restricted; see :func:`speed_cases`. Defaults to all.
        solo_workers (int): Worker processes of each data loader of
            MMPretrain's. Defaults to 2.
        variants (dict[str, Config]): Other configs of the cohort, by name,
            to compare the runner's speed with. Defaults to none.
        growth (bool): Whether to time cohorts of equal branches instead.
            Defaults to False.
        growth_branch (str, optional): Their branch. Defaults to the first.

    Returns:
        dict[str, Any]: The measurements and what they were made on, as plain
        data.

    Raises:
        ConfigError: If the config has no cohort, a name is none that there
            is, or a case fails.
    """
    branches = cfg.model.get('branches')
    if not branches:
        raise ConfigError('the benchmark is for cohorts: model.branches must '
                          f'name at least one classifier; got {branches!r}')
    if growth:
        if growth_branch is None:
            growth_branch = next(iter(branches))
        check_choice('--growth-branch', growth_branch, branches)
        cases = growth_cases(cfg, growth_branch)
    else:
        cases = speed_cases(cfg, solo_workers, variants)
    cases = _choose(cases, only)
    threads = threads or torch.get_num_threads()
    # They also show what there is to say against the data, only once.
    iterations, val_images = _data_sizes(cfg)
    machine = describe_machine()
    found = measure(cases, rounds, seconds, threads)
    ratios = growth_ratios(found) if growth else speed_ratios(
        found, list(branches), iterations, val_images, variants)
    return dict(
        config=cfg.filename,
        config_sha256=hashlib.sha256(cfg.pretty_text.encode()).hexdigest(),
        **machine,
        threads=threads,
        precision=precision(cfg.optim_wrapper),
        memory_formats=next(
            (case.facts['memory_formats']
             for case in found.values() if 'memory_formats' in case.facts),
            None),
        batch_size=cfg.train_dataloader.batch_size,
        compile=cfg.get('compile', False),
        rounds=rounds,
        seconds=seconds,
        solo_workers=solo_workers,
        growth_branch=growth_branch,
        iterations_per_epoch=iterations,
        val_images=val_images,
        **results(found, ratios))


def _choose(cases: Dict[str, Callable],
            patterns: Sequence[str]) -> Dict[str, Callable]:
    """The cases that a pattern matches; all if there is no pattern."""
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in cases):
            raise ConfigError(f'--only {pattern} matches no case; there are '
                              f'{", ".join(cases)}')
    return {
        name: case
        for name, case in cases.items() if not patterns or any(
            fnmatchcase(name, pattern) for pattern in patterns)
    }


def _data_sizes(cfg: Any) -> Tuple[int, int]:
    """Iterations of an epoch, and images of a validation."""
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    train, val = (
        cfg.get(key)
        and CohortRunner.build_dataloader(branch_loader(cfg[key], 0))
        for key in ('train_dataloader', 'val_dataloader'))
    return len(train), len(val.dataset) if val else 0


def rotations(names: Sequence[str], rounds: int) -> Iterator[List[str]]:
    """The order of each round: every time another case is the first."""
    names = list(names)
    for index in range(rounds):
        first = index % len(names)
        yield names[first:] + names[:first]


def measure(cases: Dict[str, Callable], rounds: int, seconds: float,
            threads: int) -> Dict[str, Measurement]:
    """Time cases round by round, and show how far it is."""
    console = Console(stderr=True)
    progress = partial(
        track,
        console=console,
        transient=True,
        disable=not console.is_terminal)
    found = {}
    with Workers(cases, seconds, threads) as workers:
        for name in progress(cases, 'Building'):
            workers.wait(name)
        for name in progress(cases, 'Warming up'):
            found[name] = Measurement(**workers.resume(name))
        order = [name for row in rotations(cases, rounds) for name in row]
        for name in progress(order, 'Measuring'):
            found[name].samples.append(workers.resume(name))
    return found
