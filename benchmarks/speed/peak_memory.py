import ctypes
import gc
from contextlib import suppress
from typing import Optional

import torch
import torch.nn as nn
import torch.nn.functional as F

from mcod_plugin.utils.machine import process_memory


class PeakMemory:
    """By how much the peak of this process's memory has grown.

    On a GPU it is what PyTorch has allocated there, otherwise the resident
    memory, which only Linux tells. What PyTorch needs for any network at all
    is not counted: a tiny network is trained for one step before.
    """

    def __init__(self) -> None:
        _train_tiny_network()
        self.forget()
        self._start = (
            torch.cuda.memory_allocated()
            if torch.cuda.is_available() else process_memory('VmRSS'))

    def forget(self) -> None:
        """Forget the peak so far; what is in use still counts."""
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
            return
        # What is free would be taken for used.
        with suppress(AttributeError, OSError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)
        try:
            with open('/proc/self/clear_refs', 'w') as file:
                file.write('5')
        except OSError:
            pass  # Without it the peak may be that of an earlier moment.

    def read(self) -> Optional[int]:
        """The growth in bytes, None if the system does not tell."""
        if torch.cuda.is_available():
            return torch.cuda.max_memory_allocated() - self._start
        if not self._start:
            return None
        return max(0, process_memory('VmHWM') - self._start)


def _train_tiny_network() -> None:
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)).to(device)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    labels = torch.zeros(64, dtype=torch.long, device=device)
    inputs = torch.rand(64, 3, 32, 32, device=device)
    F.cross_entropy(net(inputs), labels).backward()
    optimizer.step()
