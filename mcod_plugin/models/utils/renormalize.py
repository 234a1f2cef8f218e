from typing import Sequence, Tuple

import torch
import torch.nn as nn
from torch import Tensor

__all__ = ['Renormalize', 'renormalization']

# Mean and standard deviation of each channel, or of all of them.
Statistics = Tuple[Sequence[float], Sequence[float]]


def renormalization(given: Statistics,
                    wanted: Statistics) -> Tuple[Tensor, Tensor]:
    """From a normalisation to another by one affine map of each channel.

    With pixels :math:`x` and normalised images
    :math:`z = (x - \\mu) / \\sigma`,

    .. math::
        z' = \\frac{x - \\mu'}{\\sigma'}
           = \\frac{\\sigma}{\\sigma'} z + \\frac{\\mu - \\mu'}{\\sigma'}

    where :math:`\\mu` and :math:`\\sigma` are given and :math:`\\mu'` and
    :math:`\\sigma'` are wanted. Returned are factor and shift ``(C, )``, in
    double precision.
    """
    mean, std = torch.tensor(given, dtype=torch.float64)
    new_mean, new_std = torch.tensor(wanted, dtype=torch.float64)
    return std / new_std, (mean - new_mean) / new_std


class Renormalize(nn.Module):
    """Normalised images, as if they had been normalised by other values.

    Args:
        given (tuple): Mean and standard deviation of each channel by which
            they were normalised, see :func:`renormalization`.
        wanted (tuple): Those by which they are to be.
    """

    def __init__(self, given: Statistics, wanted: Statistics) -> None:
        super().__init__()
        for name, value in zip(('factor', 'shift'),
                               renormalization(given, wanted)):
            # They are settings and belong in no checkpoint.
            self.register_buffer(
                name, value.float().view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Renormalise images ``(N, C, H, W)``, in at least single
        precision."""
        dtype = torch.promote_types(images.dtype, torch.float32)
        return torch.addcmul(
            self.shift.to(dtype), images.to(dtype),
            self.factor.to(dtype)).to(images.dtype)
