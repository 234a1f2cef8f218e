import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from mcod_plugin.models.utils.batch_counts import counted_together

NAME = 'num_batches_tracked'


class Additions(TorchDispatchMode):
    """Counts the operations on numbers of batches."""
    number = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        values = args[0] if isinstance(args[0], (list, tuple)) else args[:1]
        self.number += any(
            torch.is_tensor(value) and value.dtype == torch.long
            for value in values)
        return func(*args, **kwargs or {})


class Cumulative(nn.BatchNorm2d):
    """A norm that does more with its number."""

    def forward(self, images):
        self.num_batches_tracked = self.num_batches_tracked + 1
        return images


class Net(nn.Module):

    def __init__(self):
        super().__init__()
        self.first = nn.BatchNorm2d(3)
        self.twice = BatchNormAct2d(3)
        self.never = nn.BatchNorm2d(3)
        self.frozen = nn.BatchNorm2d(3).eval()
        self.average = nn.BatchNorm2d(3, momentum=None)
        self.untracked = nn.BatchNorm2d(3, track_running_stats=False)
        self.other = Cumulative(3)

    def forward(self, images):
        for norm in (self.first, self.twice, self.twice, self.frozen,
                     self.average, self.untracked, self.other):
            images = norm(images)
        return images


def test_numbers_are_those_of_single_additions():
    nets = Net(), Net()
    images = torch.rand(4, 3, 2, 2)
    for _ in range(3):
        expected = nets[0](images)
        with Additions() as additions, counted_together([nets[1], nn.ReLU()]):
            found = nets[1](images)
        assert torch.equal(found, expected)
    # Once for those that were called once and once for those called twice,
    # and those that need theirs at once.
    assert additions.number == 2 + 2 + 1
    first, second = (net.state_dict() for net in nets)
    assert first.keys() == second.keys()
    assert all(map(torch.equal, first.values(), second.values()))
    numbers = [second[f'{name}.{NAME}'].item()
               for name in ('first', 'twice', 'never', 'frozen', 'average',
                            'other')]  # yapf: disable
    assert numbers == [3, 6, 0, 0, 3, 3]


def test_all_is_as_before_if_a_call_fails():
    net = nn.Sequential(nn.BatchNorm2d(3), nn.Linear(1, 1))
    number = net[0].num_batches_tracked
    with pytest.raises(RuntimeError), counted_together([net]):
        net(torch.rand(2, 3, 4, 4))
    assert net[0].num_batches_tracked is number and number.item() == 1
