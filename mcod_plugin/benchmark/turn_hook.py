from typing import Optional

from mmengine.hooks import Hook
from mmengine.runner import Runner

from .turns import Turns


class TurnHook(Hook):
    """Take turns inside of a runner's training loop.

    Args:
        turns (Turns): The turns to take.
        lead_in (int): Iterations at the beginning of a turn that are not
            timed.
    """

    # After everything else of an iteration.
    priority = 'LOWEST'

    def __init__(self, turns: Turns, lead_in: int) -> None:
        self.turns = turns
        self.lead_in = lead_in

    def before_train_epoch(self, runner: Runner) -> None:
        """Sleep until everybody is there."""
        if runner.iter == 0:
            self.turns.start(
                images=runner.cfg.train_dataloader.batch_size,
                lead_in=self.lead_in)

    def after_train_iter(self,
                         runner: Runner,
                         batch_idx: int,
                         data_batch: Optional[dict] = None,
                         outputs: Optional[dict] = None) -> None:
        """An iteration is done."""
        self.turns.batch(batch_idx, len(runner.train_dataloader))
