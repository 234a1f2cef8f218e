import numpy as np
import pytest
import torch

from mcod_plugin.alone.cohort import load_cohort
from mcod_plugin.errors import ConfigError
from mcod_plugin.models.losses import FeatureKDLoss, feature_kd_loss
from mcod_plugin.models.losses.feature_kd_loss import guess_layout, to_map
from mcod_plugin.registry import MODELS, RUNNERS
from mcod_plugin.structures import BatchDataSample
from ...conftest import HEAD, TRANSFORMER

# For one image: maps of two sizes, tokens after one for the class, a map
# whose channels are last, and a flat feature.
SHAPES = dict(
    wide=((2, 8, 8), (4, 8, 4)),
    small=((3, 4, 4), ),
    vit=((17, 5), ),
    swin=((4, 4, 6), ),
    flat=((7, ), ))


def make(names=('wide', 'small', 'vit', 'swin', 'flat'), seed=0, **settings):
    torch.manual_seed(seed)
    loss = FeatureKDLoss(**settings)
    loss.setup(list(names), 10, {name: SHAPES[name] for name in names})
    return loss.double()


def make_feats(names, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: tuple(
            torch.randn(3, *shape, generator=generator).double().
            requires_grad_() for shape in SHAPES[name])
        for name in names
    }


def losses_of(loss, feats, names, **kwargs):
    logits = torch.zeros(len(names), 3, 10).double()
    return loss(logits, logits, feats=feats, names=names, **kwargs)


# The oracle


def places(name, value, size):
    """The vectors of channels at each place of a map of some size."""
    value = value.detach().numpy()
    if name == 'vit':
        value = value[:, 1:].reshape(3, 4, 4, 5)
    elif name == 'flat':
        value = value.reshape(3, 1, 1, 7)
    elif name != 'swin':
        value = np.moveaxis(value, 1, 3)
    height, width = (
        np.array_split(np.arange(n), m)
        for n, m in zip(value.shape[1:3], size))
    return np.stack([
        np.stack([value[:, rows][:, :, cols].mean((1, 2)) for cols in width],
                 1) for rows in height
    ], 1)


GRIDS = dict(wide=(8, 4), small=(4, 4), vit=(4, 4), swin=(4, 4), flat=(1, 1))


def distance(loss, feats, name, peer):
    size = [min(pair) for pair in zip(GRIDS[name], GRIDS[peer])]
    own, other = (
        places(one, feats[one][-1], size) for one in (name, peer))
    layer = loss.projections[name][peer]
    found = own @ layer.weight.detach().numpy().T + layer.bias.tolist()
    mean, var = other.mean(-1, keepdims=True), other.var(-1, keepdims=True)
    return np.mean((found - (other - mean) / np.sqrt(var + 1e-5))**2)


def test_equals_oracle():
    names, loss = list(SHAPES), make()
    feats = make_feats(names)
    found = losses_of(loss, feats, names)
    assert found.shape == (5, )
    for name, value in zip(names, found):
        expected = np.mean([
            distance(loss, feats, name, peer) for peer in names
            if peer != name
        ])
        assert value.item() == pytest.approx(expected, rel=1e-12)
    # some of the branches, in another order
    torch.testing.assert_close(
        losses_of(loss, feats, ['vit', 'wide']), found[[2, 0]])


def test_gradients():
    """They reach a branch and its projections, not those it follows."""
    names, loss = ['wide', 'vit'], make(['wide', 'vit'])
    feats = make_feats(names)
    losses_of(loss, feats, ['wide']).sum().backward()
    own, other = feats['wide'][-1], feats['vit'][-1]
    assert own.grad.any() and other.grad is None
    assert feats['wide'][0].grad is None
    layer = loss.projections['wide']['vit']
    step = 1e-5
    for parameter, place in ((layer.weight, (3, 2)), (layer.bias, (4, )),
                             (own, (1, 2, 5, 3))):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter[place] += sign * step
                values.append(distance(loss, feats, 'wide', 'vit'))
                parameter[place] -= sign * step
        slope = (values[0] - values[1]) / (2 * step)
        assert parameter.grad[place].item() == pytest.approx(slope, abs=1e-8)
    assert not any(value.grad is not None
                   for value in loss.projections['vit'].parameters())


def test_invariants():
    generator = torch.Generator().manual_seed(0)
    own, other = torch.randn(2, 3, 4, 4, 6, generator=generator).double()
    loss = feature_kd_loss(own, other)
    # the scale of who is followed, and where its zero is, do not count
    torch.testing.assert_close(
        feature_kd_loss(own, 5 * other - 2), loss, rtol=1e-4, atol=0)
    normed = torch.nn.functional.layer_norm(other, (6, ))
    assert feature_kd_loss(normed, other) == 0
    # Features without information are told by their mean alone.
    assert feature_kd_loss(0 * own, other).item() == pytest.approx(1, 1e-4)


@pytest.mark.parametrize('shape, layout', [
    ((7, ), 'flat'),
    ((17, 5), 'tokens'),
    ((5, 8, 8), 'NCHW'),
    ((8, 8, 5), 'NHWC'),
    ((8, 8, 8), 'NCHW'),
])
def test_layouts_are_guessed(shape, layout):
    assert guess_layout(shape) == layout


def test_maps():
    tokens = torch.arange(2. * 13 * 3).view(2, 13, 3)
    # nine of an image after four others
    expected = tokens[:, 4:].transpose(1, 2).reshape(2, 3, 3, 3)
    assert torch.equal(to_map(tokens, 'tokens'), expected)
    assert torch.equal(to_map(tokens.transpose(1, 2), 'NCL'), expected)
    # not of a square image
    many = torch.randn(2, 24, 3)
    assert to_map(many, 'tokens').shape == (2, 3, 4, 4)
    many = torch.randn(2, 14 * 10, 3)
    assert torch.equal(to_map(many, 'tokens')[..., 0, 0], many.mean(1))
    image = torch.randn(2, 4, 5, 3)
    assert torch.equal(to_map(image, 'NHWC'), image.movedim(3, 1))


def test_takes_no_random_numbers():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    loss = make()
    assert torch.equal(torch.get_rng_state(), before)
    weights = loss.state_dict()
    assert len(weights) == 2 * 5 * 4
    assert {tuple(value.shape) for key, value in weights.items()
            if key.endswith('wide.swin.weight')} == {(6, 4)}
    again, other = make().state_dict(), make(seed=1).state_dict()
    key = 'projections.vit.small.weight'
    assert torch.equal(weights[key], again[key])
    assert not torch.equal(weights[key], other[key])
    assert not torch.equal(weights[key],
                           weights['projections.vit.small.weight'.replace(
                               'small', 'wide')][:3])


def test_settings():
    loss = make(peers='vit', index=0, layouts=dict(swin='NCHW'))
    assert 'swin.vit.weight' in str(list(loss.state_dict()))
    assert list(loss.projections['wide']) == ['vit']
    # the first of its features, and the first of its sizes
    assert loss.projections['wide']['vit'].weight.shape == (5, 2)
    assert loss.projections['swin']['vit'].weight.shape == (5, 4)
    feats = make_feats(SHAPES)
    losses = losses_of(loss, feats, list(SHAPES))
    # It has nobody to follow.
    assert losses[2] == 0 and losses.requires_grad
    assert (losses[[0, 1, 3, 4]] > 0).all()
    assert "peers=['vit']" in repr(loss)


@pytest.mark.parametrize('names, settings, words', [
    (SHAPES, dict(peers='vti'), "distill.peers names 'vti', which is no "
     'branch of .*; did you mean vit'),
    (SHAPES, dict(peers=[]), r'distill.peers must name at least .*; got \[\]'),
    (SHAPES, dict(layouts=dict(a='flat')), "distill.layouts names 'a'"),
    (SHAPES, dict(layouts=dict(vit='NLC')), 'distill.layouts.vit must be one '
     "of NCHW, .*; got 'NLC'"),
    (SHAPES, dict(layouts='NCL'), "distill.layouts must be a dict .*'NCL'"),
    (SHAPES, dict(layouts=dict(vit='NHWC')), 'distill.layouts.vit must fit '
     r"a feature of the shape \(N, 17, 5\); got 'NHWC'"),
    (SHAPES, dict(index=1), 'distill.index must be one of the 1 features of '
     'the backbone of model.branches.small; got 1'),
    (SHAPES, dict(index='last'), "distill.index must be an integer; got 'l"),
    (['vit'], {}, 'model.distill.type FeatureKDLoss needs at least two '),
])
def test_refuses(names, settings, words):
    with pytest.raises(ConfigError, match=f'^{words}'):
        make(names, **settings)


def test_peer_that_is_left_out():
    names, loss = ['wide', 'small', 'flat'], make(['wide', 'small', 'flat'])
    feats = make_feats(names)
    two = {name: feats[name] for name in ('wide', 'flat')}
    without = losses_of(make(two), two, list(two))
    alive = torch.tensor([True, False, True])
    with torch.no_grad():
        feats['small'][-1].fill_(float('nan'))
        for name in ('wide', 'flat'):
            smaller = make(two).projections[name]
            loss.projections[name].load_state_dict(
                {**loss.projections[name].state_dict(),
                 **smaller.state_dict()})
    found = losses_of(loss, feats, names, alive=alive)
    torch.testing.assert_close(found[[0, 2]], without)
    found.sum().backward()
    for parameter in loss.parameters():
        assert parameter.grad.isfinite().all()
    assert not feats['small'][-1].grad.any()


# In a cohort


def make_cohort(**changes):
    torch.manual_seed(0)
    cohort = MODELS.build(
        dict(
            type='mcod_plugin.MultiBackboneClassifier',
            input_size=16,
            branches=dict(
                resnet=dict(
                    backbone=dict(
                        type='mcod_plugin.CifarResNet', depth=8, width=4),
                    head=HEAD),
                vit=dict(backbone=TRANSFORMER, head=HEAD),
                fixed=dict(
                    backbone=dict(
                        type='mcod_plugin.CifarResNet', depth=8, width=2),
                    head=HEAD,
                    frozen=True)),
            distill=dict(type='mcod_plugin.FeatureKDLoss'),
            **changes))
    cohort.init_weights()
    return cohort


def make_batch():
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(4, 3, 16, 16, generator=generator),
            BatchDataSample(gt_label=torch.tensor([0, 3, 1, 4])))


@pytest.mark.parametrize('half', [False, True])
def test_in_a_cohort(half):
    cohort = make_cohort()
    cohort.kd_weight, cohort.ratio_due = .5, True
    with torch.autocast('cpu', torch.bfloat16, enabled=half):
        losses = cohort(*make_batch(), mode='loss')
    assert {key for key in losses if 'loss_kd' in key
            } == {'resnet.loss_kd', 'vit.loss_kd'}
    # It does not pull at the logits.
    assert losses['resnet.kd_ratio'] == 0
    cohort.parse_losses(losses)[0].backward()
    for name in ('resnet', 'vit'):
        assert losses[f'{name}.loss_kd'].dtype == torch.float
        for parameter in cohort.distill.projections[name].parameters():
            assert parameter.grad.isfinite().all() and parameter.grad.any()
    # Nobody waits for what the frozen branch would learn.
    for parameter in cohort.distill.projections['fixed'].parameters():
        assert parameter.grad is not None and not parameter.grad.any()
    cohort.zero_grad()
    cohort.kd_weight = 0.
    cohort.parse_losses(cohort(*make_batch(), mode='loss'))[0].backward()
    for parameter in cohort.distill.parameters():
        assert parameter.grad is not None and not parameter.grad.any()


def test_exports_know_nothing_of_it(tiny_config):
    """They open the cohort's checkpoint and take branches out of it."""
    cfg = tiny_config(
        **{'model.distill': dict(type='mcod_plugin.FeatureKDLoss')})
    cohort = RUNNERS.build(cfg).model
    state = cohort.state_dict()
    assert 'distill.projections.vit.resnet.weight' in state
    opened = load_cohort(cfg, 'file', dict(state_dict=state)).branches['vit']
    assert opened.state_dict().keys() == {
        key.partition('branches.vit.')[2]
        for key in state if key.startswith('branches.vit.')
    }
