import pytest
import torch

from speed.peak_memory import PeakMemory

MIB = 2**20

# The kernel's account is not exact, hence the margins.


def test_growth_of_the_peak():
    memory = PeakMemory()
    if memory.read() is None:
        pytest.skip('this system does not tell')
    assert memory.read() < 16 * MIB
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    values = torch.ones(64 * MIB, dtype=torch.uint8, device=device)
    assert 60 * MIB <= memory.read() < 96 * MIB
    # What was freed has been in use, until it is forgotten.
    del values
    assert memory.read() >= 60 * MIB
    memory.forget()
    assert memory.read() < 16 * MIB
    # What is still in use counts all the same.
    values = torch.ones(64 * MIB, dtype=torch.uint8, device=device)
    memory.forget()
    assert memory.read() >= 60 * MIB
    del values
