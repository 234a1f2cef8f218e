"""Random augmentations of a whole batch at once.

They draw from PyTorch's generator on the CPU, whatever device the images are
on, and never wait for that device.
"""
from typing import Sequence, Tuple

import torch
from torch import Tensor

__all__ = ['crop', 'flip', 'random_flip', 'random_windows', 'to_device']


def crop(images: Tensor, indices: Tensor, top: Tensor, left: Tensor,
         size: Tuple[int, int]) -> Tensor:
    """Cut a window ``(h, w)`` out of some of many images ``(N, H, W, C)``,
    which are contiguous: of each of the ``indices`` one from a row ``top`` and
    a column ``left`` on, all of them ``(B, )`` and 0-based. The windows are
    ``(B, h, w, C)``."""
    number, height, width, channels = images.shape
    rows, columns = size
    # All windows of all images as a view, rows of pixels in one piece: then
    # indexing copies whole rows.
    windows = images.as_strided(
        (number, height - rows + 1, width - columns + 1, rows,
         columns * channels),
        (height * width * channels, width * channels, channels,
         width * channels, 1))
    if images.device.type == 'cpu':
        # Much faster by NumPy than by PyTorch.
        found = torch.from_numpy(windows.numpy()[indices.numpy(),
                                                 top.numpy(),
                                                 left.numpy()])
    else:
        found = windows[indices, top, left]
    return found.view(-1, rows, columns, channels)


def random_windows(number: int, image_size: Tuple[int, int],
                   size: Tuple[int, int]) -> Tuple[Tensor, Tensor]:
    """Draw places to cut windows of a height and width out of images, see
    :func:`crop`: first row and first column of each window, ``(B, )``, on the
    CPU.

    Every position of a window is equally likely, as with MMPretrain's
    ``RandomCrop``.
    """
    top = torch.randint(0, image_size[0] - size[0] + 1, (number, ))
    left = torch.randint(0, image_size[1] - size[1] + 1, (number, ))
    return top, left


def flip(images: Tensor, chosen: Tensor, dims: Sequence[int]) -> Tensor:
    """Mirror the chosen ones of images ``(B, h, w, C)``, in place, along some
    axes: 1 is upside down, 2 is left to right."""
    mirrored = images.index_select(0, chosen).flip(dims)
    if images.device.type == 'cpu':
        # Again faster, since an image is copied in one piece.
        images.numpy()[chosen.numpy()] = mirrored.numpy()
    else:
        images[chosen] = mirrored
    return images


def random_flip(images: Tensor, prob: float, dims: Sequence[int]) -> Tensor:
    """Mirror each of the images ``(B, h, w, C)`` along some axes with a
    probability, in place; see :func:`flip`."""
    # Chosen on the CPU: their number need not be asked from the device.
    chosen = (torch.rand(len(images)) < prob).nonzero()[:, 0]
    return flip(images, to_device(chosen, images.device), dims)


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Copy a small tensor from the CPU without waiting for the device."""
    if device.type == 'cpu':
        return values
    return values.pin_memory().to(device, non_blocking=True)
