import torch

from mcod_plugin.utils.memory import GIB, free_memory


def test_free_memory():
    free = free_memory(torch.device('cpu'))
    assert type(free) is int and 0 < free < 2**20 * GIB
    if torch.cuda.is_available():
        assert free_memory(torch.device('cuda')) > 0
