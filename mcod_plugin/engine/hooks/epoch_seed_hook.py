import random

import numpy as np
import torch
from mmengine.dist import get_rank
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

    Exact resuming holds for epoch-based training without persistent workers;
    a warning tells when it does not hold.

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
            loader.sampler.seed = runner.seed
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

    def before_train_epoch(self, runner: Runner) -> None:
        """Seed the generators of Python, NumPy and PyTorch."""
        seeds = np.random.SeedSequence(
            (runner.seed, runner.epoch, get_rank())).generate_state(3)
        random.seed(int(seeds[0]))
        np.random.seed(seeds[1])
        torch.manual_seed(int(seeds[2]))
