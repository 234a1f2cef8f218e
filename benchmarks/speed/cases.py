"""What the benchmark times, each case for a process of its own."""
import copy
import math
import time
from functools import partial
from itertools import cycle, islice
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence

import torch
import torch.nn.functional as F
from mmengine.hooks import Hook
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmengine.utils import import_modules_from_strings
from torch import Tensor
from torch.utils.data import DataLoader

from mcod_plugin.config.explain import explain
from mcod_plugin.config.parts import is_part
from mcod_plugin.engine.hooks import DiscontinuousKDHook
from mcod_plugin.engine.runner import CohortRunner
from mcod_plugin.engine.runner.view_settings import name_views
from mcod_plugin.errors import ConfigError
from mcod_plugin.registry import RUNNERS
from .branch_runner import FOREVER, branch_runner
from .optimizer_alone import optim_wrapper_alone
from .step_timer import StepTimer

__all__ = ['GROWTH', 'growth_cases', 'speed_cases']

# Fixed batches, of which each step takes the next one.
BATCHES = 4
# Sizes of the cohorts of equal branches.
GROWTH = (1, 2, 4, 8)

Case = Callable[[StepTimer], None]


def speed_cases(cfg: Any, workers: int,
                variants: Mapping[str, Any]) -> Dict[str, Case]:
    """All cases of a config; docs/performance.md tells what they do.

    A frozen branch is not trained alone either; it has neither ``bare`` nor
    ``solo``.

    Args:
        cfg (Config): The config.
        workers (int): Worker processes of MMPretrain's data loaders.
        variants (dict[str, Config]): Other configs of the cohort, by name.

    Returns:
        dict[str, Callable]: The cases by name.
    """
    branches = cfg.model.branches
    cohort = partial(cohort_runner, cfg)
    alone = {
        name: partial(branch_runner, cfg, name, workers)
        for name in branches
    }
    trained = [name for name in branches if not branches[name].get('frozen')]
    found = {f'bare/{name}': partial(bare, cfg, name) for name in trained}
    found['step/on'] = partial(step, cfg, 1.)
    found['step/off'] = partial(step, cfg, 0.)
    found['runner/on'] = partial(train, cohort)
    for name in trained:
        found[f'solo/{name}'] = partial(train, alone[name])
    found['data/cohort'] = partial(load, cohort)
    # One whose images are the data's, if there is one.
    plain = min(branches, key=lambda name: 'input_size' in branches[name])
    for number in sorted({0, workers}):
        found[f'data/toolbox-{number}'] = partial(
            load, partial(branch_runner, cfg, plain, number))
    if cfg.get('val_dataloader') is not None:
        found['val/cohort'] = partial(validate, cohort)
        for name in branches:
            found[f'val/{name}'] = partial(validate, alone[name])
    found = {name: partial(_run, cfg, case) for name, case in found.items()}
    for name, variant in variants.items():
        build = partial(cohort_runner, variant)
        for kind, case in (('runner', train), ('data', load)):
            found[f'{kind}/{name}'] = partial(_run, variant,
                                              partial(case, build))
    return found


def growth_cases(cfg: Any, branch: str) -> Dict[str, Case]:
    """Cohorts of equal copies of one branch, ``growth/<number of copies>``."""
    found = {}
    for number in GROWTH:
        grown = copy.deepcopy(cfg)
        grown.model.branches = {
            f'{branch}_{index}':
            dict(copy.deepcopy(cfg.model.branches[branch]), frozen=False)
            for index in range(number)
        }
        found[f'growth/{number}'] = partial(_run, grown,
                                            partial(step, grown, 1.))
    return found


def _run(cfg: Any, case: Case, timer: StepTimer) -> None:
    """Run a case in a new process, and explain its errors."""
    if cfg.get('custom_imports') is not None:
        import_modules_from_strings(**cfg.custom_imports)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    try:
        case(timer)
    except (BrokenPipeError, EOFError):
        raise
    except Exception as error:
        raise explain(cfg, error) from error


def cohort_runner(cfg: Any, folder: str) -> Runner:
    """The runner of a config, always distilling, with its work directory. It
    never ends or validates of its own accord."""
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


def bare(cfg: Any, name: str, timer: StepTimer) -> None:
    """Train a branch with nothing around it.

    It is the branch of the cohort, in its precision and memory format, and
    the batches are preprocessed and on the device before.
    """
    batches, runner = _batches_and_runner(cfg, timer)
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
        optim_wrapper_alone(cfg.optim_wrapper, settings))
    timer.start(images=cfg.train_dataloader.batch_size)
    for inputs, target in cycle(batches):
        with optim_wrapper.optim_context(branch):
            loss = F.cross_entropy(branch(inputs).float(), target)
        optim_wrapper.update_params(loss)
        timer.step()


def step(cfg: Any, kd_weight: float, timer: StepTimer) -> None:
    """Train the cohort on fixed batches, without a runner."""
    batches, runner = _batches_and_runner(cfg, timer)
    model = runner.model
    model.train()
    model.kd_weight = kd_weight
    optim_wrapper = runner.build_optim_wrapper(cfg.optim_wrapper)
    timer.start(
        images=cfg.train_dataloader.batch_size,
        memory_formats={
            name: str(value).rpartition('.')[2]
            for name, value in model.memory_formats.items()
        })
    for batch in cycle(batches):
        model.train_step(batch, optim_wrapper)
        timer.step()


def _batches_and_runner(cfg: Any, timer: StepTimer) -> tuple:
    """Fixed batches, and a runner whose model can be trained on them."""
    batches = raw_batches(cfg)
    timer.watch_memory()
    runner = cohort_runner(cfg, timer.folder)
    runner._compile_branches()
    runner.model.init_weights()
    return batches, runner


def raw_batches(cfg: Any) -> List[dict]:
    """A few full batches of the training data, as the config's loader gives
    them."""
    settings = dict(
        name_views(cfg.train_dataloader, list(cfg.model.branches)),
        drop_last=True)
    batches = list(islice(CohortRunner.build_dataloader(settings, 0), BATCHES))
    if not batches:
        raise ConfigError('train_dataloader.batch_size must be at most the '
                          f'number of images; got {settings["batch_size"]}')
    return batches


def targets(data_samples: Sequence) -> Tensor:
    """Labels ``(N, )`` of a preprocessed batch; scores ``(N, C)`` if they are
    mixed."""
    if 'gt_score' in data_samples[0]:
        return torch.stack([sample.gt_score
                            for sample in data_samples]).float()
    return torch.cat([sample.gt_label for sample in data_samples])


def train(build: Callable[[str], Runner], timer: StepTimer) -> None:
    """Train by a runner, which ``build`` makes of its work directory."""
    timer.watch_memory()
    runner = build(timer.folder)
    runner.register_hook(TimerHook(timer))
    runner.train()


class TimerHook(Hook):
    """Times the iterations of a runner's training loop."""

    # After everything else of an iteration.
    priority = 'LOWEST'

    def __init__(self, timer: StepTimer) -> None:
        self.timer = timer

    def before_train_epoch(self, runner: Runner) -> None:
        """Wait until all cases are built."""
        if runner.iter == 0:
            self.timer.start(
                images=runner.cfg.train_dataloader.batch_size,
                lead_in=1 + ahead(runner.train_dataloader))

    def after_train_iter(self,
                         runner: Runner,
                         batch_idx: int,
                         data_batch: Optional[dict] = None,
                         outputs: Optional[dict] = None) -> None:
        """An iteration is done."""
        self.timer.batch(batch_idx, len(runner.train_dataloader))


def ahead(loader: DataLoader) -> int:
    """How many batches a loader may have ready before they are asked for."""
    return loader.num_workers * (loader.prefetch_factor or 0)


def load(build: Callable[[str], Runner], timer: StepTimer) -> None:
    """Load and preprocess the training data of a runner, and no more."""
    timer.watch_memory()
    runner = build(timer.folder)
    loader = runner.train_dataloader
    preprocess = runner.model.data_preprocessor
    timer.start(
        images=runner.cfg.train_dataloader.batch_size,
        lead_in=1 + ahead(loader))
    while True:
        for index, batch in enumerate(loader):
            preprocess(batch, True)
            timer.batch(index, len(loader))


def validate(build: Callable[[str], Runner], timer: StepTimer) -> None:
    """Validate by a runner's loop, on as many batches as make a sample."""
    timer.watch_memory()
    runner = build(timer.folder)
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

    timer.start(warm_up=0, lead_in=0)
    batches = min(whole, math.ceil(timer.seconds / run(1)))
    run(batches)
    timer.warmed_up()
    timer.images = len(loop.dataloader.dataset) / batches
    while True:
        loop.run()
        timer.step(batches)
