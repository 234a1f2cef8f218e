import pytest
import torch

from mcod_plugin.utils.memory import (GIB, free_memory, peak_memory,
                                      process_memory)

# The kernel's account is not exact.
SLACK = 2**22


def test_free_memory():
    free = free_memory(torch.device('cpu'))
    assert type(free) is int and 0 < free < 2**20 * GIB
    if torch.cuda.is_available():
        assert free_memory(torch.device('cuda')) > 0


def test_peak_memory():
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    if device == 'cpu' and not process_memory('VmHWM'):
        pytest.skip('this system does not tell')
    values = torch.ones(2**26, dtype=torch.uint8, device=device)
    peak = peak_memory()
    assert type(peak) is int and peak >= 2**26
    del values
    assert peak_memory() >= peak - SLACK


def test_process_memory():
    now, peak = map(process_memory, ('VmRSS', 'VmHWM'))
    assert 0 <= now <= peak + SLACK < 2**20 * GIB
    assert process_memory('nothing') == 0
