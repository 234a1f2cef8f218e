import pytest
from torch.utils.data import DataLoader

from speed.turn_hook import TurnHook, ahead


class Record:
    """Turns that note what they are told."""

    def __init__(self):
        self.told = []

    def start(self, **facts):
        self.told.append(facts)

    def batch(self, index, length):
        self.told.append((index, length))


@pytest.mark.parametrize('settings, expected', [
    (dict(), 0),
    (dict(num_workers=2), 4),
    (dict(num_workers=1, prefetch_factor=5), 5),
])
def test_ahead(settings, expected):
    assert ahead(DataLoader([0] * 8, **settings)) == expected


def test_every_iteration_is_told_and_the_beginning_once(tiny_runner):
    turns = Record()
    runner = tiny_runner()
    runner.register_hook(TurnHook(turns))
    runner.train()
    length = len(runner.train_dataloader)
    batch_size = runner.cfg.train_dataloader.batch_size
    assert turns.told == [
        dict(images=batch_size, lead_in=1),
        *[(index, length) for index in range(length)] * runner.max_epochs
    ]
    assert runner.max_epochs > 1
