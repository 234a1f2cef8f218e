import numpy as np
import pytest
import torch

from mcod_plugin.datasets.batch_transforms import (crop, flip, random_flip,
                                                   random_windows, to_device)

DEVICES = ['cpu'] + ['cuda'] * torch.cuda.is_available()


def make_images(num=4, channels=3):
    size = num * 7 * 6 * channels
    return torch.arange(size).remainder(251).to(torch.uint8).view(
        num, 7, 6, channels)


@pytest.mark.parametrize('channels', [1, 3, 4])
@pytest.mark.parametrize('size', [(1, 1), (3, 5), (7, 6), (7, 1)])
def test_crop(channels, size):
    """Every window of every image."""
    images = make_images(channels=channels)
    places = np.stack(
        np.meshgrid(
            range(len(images)), range(7 - size[0] + 1),
            range(6 - size[1] + 1)), -1).reshape(-1, 3)
    found = crop(images, *torch.from_numpy(places).T, size)
    assert found.shape == (len(places), *size, channels)
    assert found.is_contiguous() and found.dtype == torch.uint8
    for window, (index, top, left) in zip(found, places):
        expected = images[index, top:top + size[0], left:left + size[1]]
        assert torch.equal(window, expected)


@pytest.mark.parametrize('dims, expected', [
    ([1], lambda image: np.flip(image, 0)),
    ([2], lambda image: np.flip(image, 1)),
    ([1, 2], lambda image: np.flip(image, (0, 1))),
])
@pytest.mark.parametrize('chosen', [[], [2], [0, 3], [0, 1, 2, 3]])
def test_flip(dims, expected, chosen):
    images = make_images()
    before = images.clone()
    result = flip(images, torch.tensor(chosen, dtype=torch.long), dims)
    assert result is images
    for index, image in enumerate(before.numpy()):
        if index in chosen:
            image = expected(image)
        np.testing.assert_array_equal(images[index].numpy(), image)


def test_random_windows():
    torch.manual_seed(0)
    top, left = random_windows(500, (7, 6), (5, 6))
    assert set(top.tolist()) == {0, 1, 2} and left.tolist() == [0] * 500
    # In this order they are drawn, which seeds rely on.
    torch.manual_seed(1)
    found = random_windows(9, (7, 6), (3, 2))
    torch.manual_seed(1)
    for values, number in zip(found, (5, 5)):
        assert torch.equal(values, torch.randint(0, number, (9, )))


@pytest.mark.parametrize('device', DEVICES)
def test_draws_do_not_depend_on_the_device(device):
    """They are those of the generator on the CPU, and leave it the same."""
    images = make_images()
    results = []
    for place in ('cpu', device):
        torch.manual_seed(0)
        chosen = torch.tensor([3, 1, 0, 1] * 5)
        windows = random_windows(20, images.shape[1:3], (5, 4))
        batch = crop(
            images.to(place),
            *(values.to(place) for values in (chosen, *windows)), (5, 4))
        batch = random_flip(batch, .5, (2, ))
        results.append((batch.cpu(), torch.rand(3)))
    for one, other in zip(*results):
        assert torch.equal(one, other)


@pytest.mark.parametrize('device', DEVICES)
def test_to_device(device):
    values = torch.arange(5)
    moved = to_device(values, torch.device(device))
    assert moved.device.type == device and moved.tolist() == values.tolist()
