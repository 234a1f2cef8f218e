import pytest
import torch
import torch.nn.functional as F

from mcod_plugin.errors import ConfigError
from mcod_plugin.models.utils.branch_images import BranchImages, resize
from mcod_plugin.models.utils.branch_settings import BranchSettings
from mcod_plugin.models.utils.renormalize import Renormalize

COHORT = BranchSettings((8, 8), (120., 130., 140.), (60., 50., 40.))
OTHER = dict(mean=(100., 110., 120.), std=(70., 80., 90.))


def make(cohort=COHORT, formats=None, **cfgs):
    branches = {
        name: cohort.take(name, cfg, 3)[1]
        for name, cfg in cfgs.items()
    }
    formats = {
        name: (formats or {}).get(name, torch.contiguous_format)
        for name in cfgs
    }
    return BranchImages(cohort, branches, formats)


@pytest.fixture
def inputs():
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize('cfg', [
    {},
    dict(mean=list(COHORT.mean), std=list(COHORT.std)),
    dict(input_size=8),
    dict(lr_mult=.1, loss_weight=2.),
])
def test_nothing_to_do(inputs, cfg):
    images = make(a=cfg, b={})(inputs)
    assert images['a'] is images['b'] is inputs
    last = torch.channels_last
    images = make(formats=dict(a=last, b=last), a=cfg, b={})(inputs)
    assert images['a'] is images['b'] is not inputs
    assert images['a'].is_contiguous(memory_format=last)
    assert torch.equal(images['a'], inputs)


def test_each_sees_its_own(inputs):
    images = make(
        a={}, b=OTHER, c=dict(input_size=(6, 12)),
        d=dict(OTHER, input_size=(6, 12)))(inputs)  # yapf: disable
    own = Renormalize((COHORT.mean, COHORT.std), tuple(OTHER.values()))(inputs)
    assert images['a'] is inputs
    assert torch.equal(images['b'], own)
    assert torch.equal(images['c'], resize(inputs, (6, 12)))
    assert torch.equal(images['d'], resize(own, (6, 12)))
    # The order does not matter.
    torch.testing.assert_close(
        images['d'],
        Renormalize((COHORT.mean, COHORT.std),
                    tuple(OTHER.values()))(images['c']))


def test_equal_work_is_done_once(inputs, monkeypatch):
    calls = []
    monkeypatch.setattr(
        Renormalize, 'forward',
        lambda self, images: calls.append('renormalize') or images + 1)
    monkeypatch.setattr(
        F, 'interpolate',
        lambda images, *args, **kwargs: calls.append('resize') or images[:2])
    last = torch.channels_last
    own = dict(OTHER, input_size=4)
    views = make(
        formats=dict(c=last, d=last, f=last),
        a=own, b=own, c=own, d=own, e=OTHER, f=dict(input_size=4), g={})
    images = views(inputs)
    assert sorted(calls) == ['renormalize', 'resize', 'resize']
    assert images['a'] is images['b'] is not images['c']
    assert images['c'] is images['d']
    assert images['g'] is inputs
    assert len(list(views.buffers())) == 2


def test_only_another_size_is_resized(inputs):
    views = make(a=dict(input_size=8), b={}, c=dict(input_size=16))
    for size in (8, 10, 16):
        batch = F.interpolate(inputs, (size, size))
        images = views(batch)
        assert images['a'].shape == (4, 3, 8, 8)
        assert images['b'] is batch
        assert images['c'].shape == (4, 3, 16, 16)
        assert (images['a'] is batch) == (size == 8)
        assert (images['c'] is batch) == (size == 16)


def test_resize_by_hand():
    """Half the size, antialiased: pixels of the weights 1, 3, 3, 1, which
    are cut off and made to add up to 1 at the borders."""
    line = torch.tensor([3., 1., 4., 1., 5., 9., 2., 6.], dtype=torch.float64)
    expected = []
    for centre in range(1, 8, 2):
        # Centre of the new pixel, between two old ones.
        weights = {
            place: 1 - abs(place + .5 - centre) / 2
            for place in range(8) if abs(place + .5 - centre) < 2
        }
        expected.append(
            sum(weight * line[place].item()
                for place, weight in weights.items()) / sum(weights.values()))
    images = line.expand(1, 1, 8, 8)
    found = resize(images, (8, 4))
    torch.testing.assert_close(
        found,
        torch.tensor(expected, dtype=torch.float64).expand(1, 1, 8, 4))
    torch.testing.assert_close(resize(images.mT, (4, 8)), found.mT)


def test_means_are_kept(inputs):
    flat = torch.full_like(inputs, 3.5)
    torch.testing.assert_close(
        resize(flat, (5, 11)), torch.full((4, 3, 5, 11), 3.5))


def test_images_that_are_not_normalised(inputs):
    cohort = BranchSettings((8, 8))
    images = make(cohort, a={}, b=OTHER)(inputs)
    assert images['a'] is inputs
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in OTHER.values())
    torch.testing.assert_close(images['b'], (inputs - mean) / std)


def test_moves_with_the_model_and_is_in_no_checkpoint(inputs):
    views = make(a=OTHER)
    assert not views.state_dict()
    assert views.double()(inputs.double())['a'].dtype == torch.float64
    assert views.to('meta')(inputs.to('meta'))['a'].device.type == 'meta'


# Views of their own


def test_each_view_is_prepared_as_its_branch_wants_it(inputs):
    """As if all branches had it."""
    last = torch.channels_last
    given = dict(c=inputs * 2, a=inputs, b=inputs + 1, d=inputs - 1)
    images = make(
        formats=dict(d=last),
        a={}, b=OTHER, c=dict(OTHER, input_size=4), d={})
    found = images(given)
    assert list(found) == ['a', 'b', 'c', 'd'] and found['a'] is inputs
    for name, view in given.items():
        assert torch.equal(found[name], images(view)[name])
    assert found['d'].is_contiguous(memory_format=last)
    same = images(dict.fromkeys('abcd', inputs))
    for name, image in images(inputs).items():
        assert torch.equal(same[name], image)


def test_views_of_several_sizes(inputs):
    """Each is brought to the size of its branch, if this has any."""
    small = inputs[..., :6, :6].contiguous()
    found = make(a={}, b=dict(input_size=8))(dict(a=small, b=small))
    assert found['a'] is small
    assert torch.equal(found['b'], resize(small, (8, 8)))


@pytest.mark.parametrize('names, words', [
    ('a', 'must be of a, b; got a'),
    ('', 'must be of a, b; got none'),
    ('abc', 'must be of a, b; got a, b, c'),
])
def test_views_of_other_branches(inputs, names, words):
    with pytest.raises(ConfigError) as info:
        make(a={}, b={})(dict.fromkeys(names, inputs))
    assert str(info.value) == f'inputs by branch {words}'


def test_views_of_other_images(inputs):
    with pytest.raises(ConfigError) as info:
        make(a={}, b={})(dict(a=inputs, b=inputs[:3]))
    assert str(info.value) == ('inputs by branch must be of the same images; '
                               'got a 4, b 3 images')
