import random
from functools import partial
from typing import Iterator, Tuple

import numpy as np
import torch
from mmengine.dist import broadcast_object_list
from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner

from mcod_plugin.datasets.repeated_batches import RepeatedBatches
from mcod_plugin.registry import HOOKS
from mcod_plugin.utils.mesh import data_rank


@HOOKS.register_module()
class EpochSeedHook(Hook):
    """Make the randomness of an epoch a function of the run's seed, the epoch
    and the rank, so that a resumed run repeats what an unbroken one does.
    Where training counts iterations, it is that of each iteration.

    MMEngine restores neither the state of the random generators nor, if the
    seed was drawn, that of the sampler. Here every epoch begins with freshly
    seeded generators. Worker processes take their seeds from the main
    process, as PyTorch does by itself; MMEngine would give them the same ones
    in every epoch.

    Exact resuming holds without persistent workers, if
    ``accumulative_counts`` divides the iterations of an epoch, or from one
    checkpoint to the next; a warning tells when it does not hold.

    Examples:
        >>> default_hooks = dict(epoch_seed=dict(
        ...     type='mcod_plugin.EpochSeedHook'))
    """

    # Before all hooks that may draw random numbers.
    priority = 'VERY_HIGH'

    def before_train(self, runner: Runner) -> None:
        """Hand the run's seed to sampler and workers."""
        loader = runner.train_dataloader
        # A resumed run takes its seed from the checkpoint after the sampler
        # was built.
        if getattr(loader.sampler, 'seed', None) is not None:
            # All ranks shuffle alike, each for its share, also if
            # randomness.diff_rank_seed gives each a seed of its own.
            seeds = [runner.seed]
            broadcast_object_list(seeds)
            loader.sampler.seed = seeds[0]
        loader.worker_init_fn = None
        if loader.num_workers > 0 and loader.persistent_workers:
            runner.logger.warning(
                'train_dataloader.persistent_workers=True: the workers keep '
                'their random state from epoch to epoch, so a resumed run '
                'will not repeat the augmentations of an unbroken one.')
        if isinstance(runner.train_loop, IterBasedTrainLoop):
            runner.train_loop.dataloader_iterator = RepeatedBatches(
                loader, partial(_seed, runner.seed), runner.iter)
        elif not isinstance(runner.train_loop, EpochBasedTrainLoop):
            runner.logger.warning(
                f'train_cfg.type={type(runner.train_loop).__name__}: a '
                'resumed run may not repeat the augmentations of an unbroken '
                'one.')
        counts = getattr(runner.optim_wrapper, '_accumulative_counts', 1)
        for steps, what in _stops(runner):
            if steps % counts:
                runner.logger.warning(
                    f'optim_wrapper.accumulative_counts={counts} does not '
                    f'divide {what}: a resumed run lacks the gradients that '
                    'an unbroken one takes beyond them.')

    def before_train_epoch(self, runner: Runner) -> None:
        """Seed the generators of Python, NumPy and PyTorch."""
        _seed(runner.seed, runner.epoch)


def _seed(seed: int, step: int) -> None:
    seeds = np.random.SeedSequence((seed, step,
                                    data_rank())).generate_state(3)
    random.seed(int(seeds[0]))
    np.random.seed(seeds[1])
    torch.manual_seed(int(seeds[2]))


def _stops(runner: Runner) -> Iterator[Tuple[int, str]]:
    """The iterations after which a run may be resumed, in number and words."""
    if isinstance(runner.train_loop, EpochBasedTrainLoop):
        steps = len(runner.train_dataloader)
        yield steps, f'the {steps} iterations of an epoch'
        return
    for hook in runner.hooks:
        if isinstance(hook, CheckpointHook) and hook.interval > 0:
            yield (hook.interval, f'the {hook.interval} iterations from one '
                   'checkpoint to the next')
