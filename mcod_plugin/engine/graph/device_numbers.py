from typing import List, Optional, Sequence

import torch

__all__ = ['DeviceNumbers']


class DeviceNumbers:
    """Numbers of the host that a recorded step reads on the device.

    Args:
        number (int): How many there are.
        device (torch.device): Where the step is computed.
        dtype (torch.dtype): What they are rounded to.

    Attributes:
        items (list[Tensor]): The numbers as scalars, which stay where they
            are.
    """

    def __init__(self, number: int, device: torch.device,
                 dtype: torch.dtype) -> None:
        self._values = torch.zeros(number, dtype=dtype, device=device)
        self.items = list(self._values.unbind())
        self._known: Optional[List[float]] = None

    def write(self, numbers: Sequence[float]) -> None:
        """Write the numbers, if they have changed."""
        numbers = list(numbers)
        if numbers == self._known:
            return
        self._known = numbers
        fresh = torch.tensor(numbers, dtype=self._values.dtype)
        if self._values.is_cuda:
            # In memory of its own each time: the device may not have read
            # the last numbers yet.
            fresh = fresh.pin_memory()
        self._values.copy_(fresh, non_blocking=True)
