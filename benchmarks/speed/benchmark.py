"""Is a cohort cheaper than its networks alone?"""
import hashlib
from fnmatch import fnmatchcase
from typing import Any, Callable, Dict, Mapping, Optional, Sequence, Tuple

import torch
from mmengine.registry import init_default_scope

from mcod_plugin.engine.optim_wrapper import precision
from mcod_plugin.engine.runner import CohortRunner
from mcod_plugin.errors import ConfigError, check_choice
from mcod_plugin.utils.machine import describe_machine
from .contenders import growth_line_up, line_up
from .ratios import growth_ratios, ratios
from .report import results
from .toolbox import toolbox_loader
from .tournament import play

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
    """Time a cohort and its branches alone, in turns.

    Args:
        cfg (Config): The cohort's config.
        rounds (int): Number of turns of each contender. Defaults to 7.
        seconds (float): The least length of a turn. Defaults to 1.
        threads (int, optional): Number of PyTorch's threads in each process.
            Defaults to PyTorch's choice.
        only (Sequence[str]): Patterns of names, to which the contenders are
            restricted; see :func:`line_up`. Defaults to all.
        solo_workers (int): Worker processes of each data loader of the
            toolbox. Defaults to 2.
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
            is, or a contender fails.
    """
    branches = cfg.model.get('branches')
    if not branches:
        raise ConfigError('the benchmark is for cohorts: model.branches must '
                          f'name at least one classifier; got {branches!r}')
    if growth:
        if growth_branch is None:
            growth_branch = next(iter(branches))
        check_choice('--growth-branch', growth_branch, branches)
        contenders = growth_line_up(cfg, growth_branch)
    else:
        contenders = line_up(cfg, solo_workers, variants)
    contenders = _choose(contenders, only)
    threads = threads or torch.get_num_threads()
    # They also show what there is to say against the data, only once.
    iterations, val_images = _data_sizes(cfg)
    machine = describe_machine()
    scores = play(contenders, rounds, seconds, threads)
    found = growth_ratios(scores) if growth else ratios(
        scores, list(branches), iterations, val_images, variants)
    formats = [
        score.facts['memory_formats'] for score in scores.values()
        if 'memory_formats' in score.facts
    ]
    return dict(
        config=cfg.filename,
        config_sha256=hashlib.sha256(cfg.pretty_text.encode()).hexdigest(),
        **machine,
        threads=threads,
        precision=precision(cfg.optim_wrapper),
        memory_formats=formats[0] if formats else None,
        batch_size=cfg.train_dataloader.batch_size,
        compile=cfg.get('compile', False),
        rounds=rounds,
        seconds=seconds,
        solo_workers=solo_workers,
        growth_branch=growth_branch,
        iterations_per_epoch=iterations,
        val_images=val_images,
        **results(scores, found))


def _choose(contenders: Dict[str, Callable],
            patterns: Sequence[str]) -> Dict[str, Callable]:
    """The contenders that a pattern matches; all if there is no pattern."""
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in contenders):
            raise ConfigError(f'--only {pattern} matches no contender; there '
                              f'are {", ".join(contenders)}')
    return {
        name: play
        for name, play in contenders.items() if not patterns or any(
            fnmatchcase(name, pattern) for pattern in patterns)
    }


def _data_sizes(cfg: Any) -> Tuple[int, int]:
    """Iterations of an epoch, and images of a validation."""
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    sizes = []
    for key in ('train_dataloader', 'val_dataloader'):
        loader = cfg.get(key)
        sizes.append(
            loader
            and CohortRunner.build_dataloader(toolbox_loader(loader, 0)))
    train, val = sizes
    return len(train), len(val.dataset) if val else 0
