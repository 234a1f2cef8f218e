import random

import numpy as np
import torch
from mmengine.dist import broadcast_object_list, get_rank
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner

from mcod_plugin.registry import HOOKS


@HOOKS.register_module()
class EpochSeedHook(Hook):
    """Make the randomness of an epoch a function of the run's seed, the epoch
    and the rank, so that a resumed run repeats what an unbroken one does.

    MMEngine restores neither the state of the random generators nor, if the
    seed was drawn, that of the sampler. Here every epoch begins with freshly
    seeded generators. Worker processes take their seeds from the main
    process, as PyTorch does by itself; MMEngine would give them the same ones
    in every epoch.

    Exact resuming holds for epoch-based training without persistent workers,
    if ``accumulative_counts`` divides the iterations of an epoch; a warning
    tells when it does not hold.

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
        if not isinstance(runner.train_loop, EpochBasedTrainLoop):
            runner.logger.warning(
                'train_cfg.by_epoch=False: a resumed run will not repeat the '
                'augmentations of an unbroken one.')
            return
        counts = getattr(runner.optim_wrapper, '_accumulative_counts', 1)
        if len(loader) % counts:
            runner.logger.warning(
                f'optim_wrapper.accumulative_counts={counts} does not divide '
                f'the {len(loader)} iterations of an epoch: a resumed run '
                'lacks the gradients that an unbroken one takes from one '
                'epoch into the next.')

    def before_train_epoch(self, runner: Runner) -> None:
        """Seed the generators of Python, NumPy and PyTorch."""
        seeds = np.random.SeedSequence(
            (runner.seed, runner.epoch, get_rank())).generate_state(3)
        random.seed(int(seeds[0]))
        np.random.seed(seeds[1])
        torch.manual_seed(int(seeds[2]))
