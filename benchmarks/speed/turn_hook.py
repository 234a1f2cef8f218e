from typing import Optional

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from .turns import Turns


class TurnHook(Hook):
    """Take turns inside of a runner's training loop.

    Args:
        turns (Turns): The turns to take.
    """

    # After everything else of an iteration.
    priority = 'LOWEST'

    def __init__(self, turns: Turns) -> None:
        self.turns = turns

    def before_train_epoch(self, runner: Runner) -> None:
        """Sleep until everybody is there."""
        if runner.iter == 0:
            self.turns.start(
                images=runner.cfg.train_dataloader.batch_size,
                lead_in=1 + ahead(runner.train_dataloader))

    def after_train_iter(self,
                         runner: Runner,
                         batch_idx: int,
                         data_batch: Optional[dict] = None,
                         outputs: Optional[dict] = None) -> None:
        """An iteration is done."""
        self.turns.batch(batch_idx, len(runner.train_dataloader))


def ahead(loader: DataLoader) -> int:
    """How many batches a loader may have ready before they are asked for.

    Args:
        loader (DataLoader): The loader.

    Returns:
        int: Their number.
    """
    return loader.num_workers * (loader.prefetch_factor or 0)
