import numpy as np
import pytest
import torch

from mcod_plugin.models.utils.renormalize import Renormalize, renormalization

COHORT = ([125.3, 123., 113.9], [63., 62.1, 66.7])
OTHER = ([127.5, 120., 100.], [127.5, 58.4, 30.])


def pixels(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (4, 3, 5, 7), generator=generator).to(dtype)


def normalize(images, statistics):
    mean, std = (np.array(values).reshape(-1, 1, 1) for values in statistics)
    return (images.double().numpy() - mean) / std


@pytest.mark.parametrize('given, wanted', [
    (COHORT, OTHER),
    (OTHER, COHORT),
    (([0.], [1.]), OTHER),
    (COHORT, ([0., 0., 0.], [255., 255., 255.])),
])
@pytest.mark.parametrize('layout',
                         [torch.contiguous_format, torch.channels_last])
def test_as_normalised_so_from_the_start(given, wanted, layout):
    images = torch.tensor(normalize(pixels(), given)).float().contiguous(
        memory_format=layout)
    found = Renormalize(given, wanted)(images)
    assert found.dtype == torch.float32
    assert found.is_contiguous(memory_format=layout)
    expected = normalize(pixels(), wanted)
    np.testing.assert_allclose(
        found.numpy(), expected, rtol=1e-5, atol=1e-5 * abs(expected).max())


def test_there_and_back():
    for one, other in ((COHORT, OTHER), (OTHER, COHORT)):
        factor, shift = renormalization(one, other)
        back, offset = renormalization(other, one)
        torch.testing.assert_close(factor * back, torch.ones(3).double())
        torch.testing.assert_close(back * shift + offset,
                                   torch.zeros(3).double())
    factor, shift = renormalization(COHORT, COHORT)
    assert factor.eq(1).all() and shift.eq(0).all()


@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16])
def test_precision(dtype):
    images = torch.tensor(normalize(pixels(), COHORT)).to(dtype)
    module = Renormalize(COHORT, OTHER)
    found = module(images)
    assert found.dtype == dtype
    # computed in single precision, rounded once
    expected = module(images.float()).to(dtype)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_gradient_and_state():
    module = Renormalize(COHORT, OTHER).double()
    images = torch.rand(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(module, images)
    assert not module.state_dict() and not list(module.parameters())
