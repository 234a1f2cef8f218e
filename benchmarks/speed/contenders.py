"""What the benchmark compares, each for a process of its own."""
import copy
import math
import time
from functools import partial
from itertools import cycle, islice
from typing import Any, Callable, Dict, List, Mapping, Sequence, Tuple

import torch
import torch.nn.functional as F
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmengine.utils import import_modules_from_strings
from torch import Tensor

from mcod_plugin.config.explain import explain
from mcod_plugin.config.parts import is_part
from mcod_plugin.engine.hooks import DiscontinuousKDHook
from mcod_plugin.engine.runner import CohortRunner
from mcod_plugin.errors import ConfigError
from mcod_plugin.registry import RUNNERS
from .toolbox import FOREVER, solo_optim_wrapper, solo_runner
from .turn_hook import TurnHook, ahead
from .turns import Turns

__all__ = ['GROWTH', 'growth_line_up', 'line_up']

# Batches that take turns where data are not measured.
BATCHES = 4

# Sizes of the cohorts of equal branches.
GROWTH = (1, 2, 4, 8)

Contender = Callable[[Turns], None]


def line_up(cfg: Any, workers: int,
            variants: Mapping[str, Any]) -> Dict[str, Contender]:
    """All contenders of a config.

    ========================= ===============================================
    ``bare/<branch>``         forward, cross entropy, backward and optimizer
                              step of a branch, on fixed preprocessed batches
    ``step/on``, ``step/off`` the cohort's ``train_step`` on fixed batches,
                              with and without distillation
    ``runner/on``             an iteration of the cohort's runner, with
                              distillation
    ``runner/<variant>``      the same, by another config
    ``solo/<branch>``         an iteration of the toolbox's runner
    ``data/cohort``           a batch of the config's loader, preprocessed
    ``data/toolbox-<N>``      a batch of the toolbox's, by N workers
    ``val/cohort``            a batch of the cohort's validation, the metric's
                              share included
    ``val/<branch>``          a batch of the toolbox's
    ========================= ===============================================

    A frozen branch is not trained alone either; it has neither ``bare`` nor
    ``solo``. Loops over training data are timed without the epoch's end, see
    :meth:`Turns.batch`.

    Args:
        cfg (Config): The config.
        workers (int): Worker processes of the toolbox's data loaders.
        variants (dict[str, Config]): Other configs of the cohort, by name.

    Returns:
        dict[str, Callable]: The contenders by name.
    """
    branches = list(cfg.model.branches)
    cohort = partial(cohort_runner, cfg)
    alone = {
        name: partial(solo_runner, cfg, name, workers)
        for name in branches
    }
    trained = [
        name for name in branches if not cfg.model.branches[name].get('frozen')
    ]
    found = {f'bare/{name}': partial(bare, cfg, name) for name in trained}
    found['step/on'] = partial(step, cfg, 1.)
    found['step/off'] = partial(step, cfg, 0.)
    found['runner/on'] = partial(train, cohort)
    for name in trained:
        found[f'solo/{name}'] = partial(train, alone[name])
    found['data/cohort'] = partial(load, cohort)
    # One whose images are the data's, if there is one.
    plain = min(
        branches, key=lambda name: 'input_size' in cfg.model.branches[name])
    for number in sorted({0, workers}):
        found[f'data/toolbox-{number}'] = partial(
            load, partial(solo_runner, cfg, plain, number))
    if cfg.get('val_dataloader') is not None:
        found['val/cohort'] = partial(validate, cohort)
        for name in branches:
            found[f'val/{name}'] = partial(validate, alone[name])
    found = {name: partial(_play, cfg, play) for name, play in found.items()}
    for name, variant in variants.items():
        found[f'runner/{name}'] = partial(
            _play, variant, partial(train, partial(cohort_runner, variant)))
    return found


def growth_line_up(cfg: Any, branch: str) -> Dict[str, Contender]:
    """Cohorts of equal copies of one branch.

    Args:
        cfg (Config): The config.
        branch (str): The branch.

    Returns:
        dict[str, Callable]: The contenders ``growth/<number of copies>``.
    """
    found = {}
    for number in GROWTH:
        grown = copy.deepcopy(cfg)
        grown.model.branches = {
            f'{branch}_{index}':
            dict(copy.deepcopy(cfg.model.branches[branch]), frozen=False)
            for index in range(number)
        }
        found[f'growth/{number}'] = partial(_play, grown,
                                            partial(step, grown, 1.))
    return found


def _play(cfg: Any, play: Contender, turns: Turns) -> None:
    """Be a contender: what a new process lacks, and what errors lack."""
    if cfg.get('custom_imports') is not None:
        import_modules_from_strings(**cfg.custom_imports)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    try:
        play(turns)
    except (BrokenPipeError, EOFError):
        raise
    except Exception as error:
        raise explain(cfg, error) from error


def cohort_runner(cfg: Any, folder: str) -> Runner:
    """The runner of a config, always distilling. It never ends or validates
    of its own accord.

    Args:
        cfg (Config): The config.
        folder (str): The work directory.

    Returns:
        Runner: The runner.
    """
    cfg = copy.deepcopy(cfg)
    if cfg.get('runner_type') is None:
        cfg.runner_type = 'mcod_plugin.CohortRunner'
    cfg.work_dir = folder
    cfg.resume = False
    # A loop by iterations needs far more of them.
    endless = dict(max_epochs=FOREVER, max_iters=FOREVER**2)
    cfg.train_cfg.update(
        {
            key: value
            for key, value in endless.items() if key in cfg.train_cfg
        },
        val_interval=FOREVER)
    if cfg.get('default_hooks', {}).get('checkpoint') is not None:
        cfg.default_hooks.checkpoint.interval = FOREVER
    cfg.custom_hooks = [
        hook for hook in cfg.get('custom_hooks') or []
        if not is_part(hook, DiscontinuousKDHook)
    ]
    cfg.custom_hooks.append(
        dict(
            type='mcod_plugin.DiscontinuousKDHook',
            on=FOREVER,
            gap=(0, 0),
            weight=(1, 1)))
    return RUNNERS.build(cfg)


def _set_up(cfg: Any, turns: Turns) -> Tuple[List[dict], Runner]:
    """Fixed batches, and a runner whose model can be trained on them."""
    batches = raw_batches(cfg)
    turns.watch_memory()
    runner = cohort_runner(cfg, turns.folder)
    runner._compile_branches()
    runner.model.init_weights()
    return batches, runner


def bare(cfg: Any, name: str, turns: Turns) -> None:
    """Train a branch with nothing around it.

    It is the branch of the cohort, in its precision and memory format, and
    the batches are preprocessed and on the device before.

    Args:
        cfg (Config): The config.
        name (str): The branch.
        turns (Turns): The turns to take.
    """
    batches, runner = _set_up(cfg, turns)
    model = runner.model
    batches = [model.data_preprocessor(batch, True) for batch in batches]
    batches = [(model.branch_images(batch['inputs'])[name],
                targets(batch['data_samples'])) for batch in batches]
    branch = runner.model = model.branches[name]
    settings = model.branch_settings[name]
    # The rest of the cohort is neither trained nor counted.
    del model
    branch.train()
    optim_wrapper = runner.build_optim_wrapper(
        solo_optim_wrapper(cfg.optim_wrapper, settings))
    turns.start(images=cfg.train_dataloader.batch_size)
    for inputs, target in cycle(batches):
        with optim_wrapper.optim_context(branch):
            loss = F.cross_entropy(branch(inputs).float(), target)
        optim_wrapper.update_params(loss)
        turns.step()


def step(cfg: Any, kd_weight: float, turns: Turns) -> None:
    """Train the cohort on fixed batches, without a runner.

    Args:
        cfg (Config): The config.
        kd_weight (float): Weight of the distillation.
        turns (Turns): The turns to take.
    """
    batches, runner = _set_up(cfg, turns)
    model = runner.model
    model.train()
    model.kd_weight = kd_weight
    optim_wrapper = runner.build_optim_wrapper(cfg.optim_wrapper)
    turns.start(
        images=cfg.train_dataloader.batch_size,
        memory_formats={
            name: str(value).rpartition('.')[2]
            for name, value in model.memory_formats.items()
        })
    for batch in cycle(batches):
        model.train_step(batch, optim_wrapper)
        turns.step()


def train(build: Callable[[str], Runner], turns: Turns) -> None:
    """Train by a runner.

    Args:
        build (Callable): Takes a work directory and returns the runner.
        turns (Turns): The turns to take.
    """
    turns.watch_memory()
    runner = build(turns.folder)
    runner.register_hook(TurnHook(turns))
    runner.train()


def load(build: Callable[[str], Runner], turns: Turns) -> None:
    """Load and preprocess the training data of a runner, and no more.

    Args:
        build (Callable): Takes a work directory and returns the runner.
        turns (Turns): The turns to take.
    """
    turns.watch_memory()
    runner = build(turns.folder)
    settings = runner.cfg.train_dataloader
    loader = runner.build_dataloader(settings, seed=runner.seed)
    preprocess = runner.model.data_preprocessor
    turns.start(images=settings.batch_size, lead_in=1 + ahead(loader))
    while True:
        for index, batch in enumerate(loader):
            preprocess(batch, True)
            turns.batch(index, len(loader))


def validate(build: Callable[[str], Runner], turns: Turns) -> None:
    """Validate by a runner's loop, on as many batches as make a turn.

    Args:
        build (Callable): Takes a work directory and returns the runner.
        turns (Turns): The turns to take.
    """
    turns.watch_memory()
    runner = build(turns.folder)
    runner.model.init_weights()
    runner.call_hook('before_run')
    loop = runner.val_loop
    whole = len(loop.dataloader)

    def run(batches: int) -> float:
        settings = dict(runner.cfg.val_dataloader)
        if batches < whole:
            settings['num_batch_per_epoch'] = batches
        loop.dataloader = runner.build_dataloader(settings, runner.seed)
        loop.run()
        began = time.perf_counter()
        loop.run()
        return time.perf_counter() - began

    turns.start(warm_up=0, lead_in=0)
    batches = min(whole, math.ceil(turns.seconds / run(1)))
    run(batches)
    turns.warmed_up()
    turns.images = len(loop.dataloader.dataset) / batches
    while True:
        loop.run()
        turns.step(batches)


def raw_batches(cfg: Any) -> List[dict]:
    """A few batches of the training data, as the config's loader gives them.

    Args:
        cfg (Config): The config.

    Returns:
        list[dict]: The batches, all of full size.

    Raises:
        ConfigError: If there is none.
    """
    settings = dict(cfg.train_dataloader, drop_last=True)
    batches = list(islice(CohortRunner.build_dataloader(settings, 0), BATCHES))
    if not batches:
        raise ConfigError('train_dataloader.batch_size must be at most the '
                          f'number of images; got {settings["batch_size"]}')
    return batches


def targets(data_samples: Sequence) -> Tensor:
    """Labels of a preprocessed batch.

    Args:
        data_samples (BatchDataSample | Sequence[DataSample]): Annotations of
            the images.

    Returns:
        Tensor: Labels ``(N, )``; scores ``(N, C)`` if labels are mixed.
    """
    if 'gt_score' in data_samples[0]:
        return torch.stack([sample.gt_score
                            for sample in data_samples]).float()
    return torch.cat([sample.gt_label for sample in data_samples])
