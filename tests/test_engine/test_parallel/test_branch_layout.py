"""Branches in several processes against all in one, by kinds of teachers and
losses; what they exchange, and what they draw."""
import copy

import pytest
import torch
import torch.distributed as dist
from mmengine.optim import OptimWrapper
from mmpretrain.structures import DataSample

from mcod_plugin.engine.parallel import BranchLayout
from mcod_plugin.models.utils import branch_peers
from mcod_plugin.registry import MODELS
from mcod_plugin.utils.mesh import join_mesh

pytestmark = pytest.mark.skipif(
    not dist.is_available() or not dist.is_gloo_available(),
    reason='needs gloo')

# off, on, harder, off again
KD_WEIGHTS = [0., .5, 2., 0.]
TEACHERS = dict(
    leave_one_out=dict(type='mcod_plugin.EnsembleTeacher', leave_one_out=True),
    min_logit=dict(type='mcod_plugin.EnsembleTeacher', fusion='min_logit'),
    confidence=dict(type='mcod_plugin.EnsembleTeacher', fusion='confidence'),
    member=dict(type='mcod_plugin.EnsembleTeacher', members='wide'),
    frozen=dict(type='mcod_plugin.EnsembleTeacher', members='fixed'),
    peers=dict(type='mcod_plugin.PeerTeacher'),
    gated=dict(type='mcod_plugin.GatedTeacher'),
    gated_norm=dict(type='mcod_plugin.GatedTeacher', norm=True))
LOSSES = dict(
    peers='MutualKDLoss',
    dkd='DKDLoss',
    dist='DISTLoss',
    balanced='BalancedKDLoss',
    gated_norm='BalancedKDLoss')
KINDS = ['mean', 'coupled', 'own_weights', 'recompute', *TEACHERS, *LOSSES]
KINDS = list(dict.fromkeys(KINDS))


class CoupledLoss(torch.nn.Module):
    """A loss whose gradient reaches the logits of other branches, and that
    has a parameter."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, logits, targets):
        apart = (logits[:, None] - logits[None]).square().mean((2, 3))
        return self.scale * (logits - targets).square().mean(
            (1, 2)) - .1 * apart.mean(1)


def make_cohort(kind):
    torch.manual_seed(0)
    head = dict(type='LinearClsHead', num_classes=5)
    branches = {
        name:
        dict(
            backbone=dict(
                type='mcod_plugin.CifarResNet', depth=8, width=width),
            head=head)
        for name, width in dict(narrow=2, wide=6, middle=4).items()
    }
    branches['alexnet'] = dict(
        backbone=dict(type='mcod_plugin.CifarAlexNet', width=4), head=head)
    if kind == 'dropout':
        branches['alexnet'] = torch.nn.Sequential(torch.nn.Flatten(),
                                                  torch.nn.Dropout(),
                                                  torch.nn.Linear(3072, 5))
    if kind == 'frozen':
        branches['fixed'] = dict(branches['wide'], frozen=True)
    distill = CoupledLoss() if kind == 'coupled' else dict(
        type='mcod_plugin.' + LOSSES.get(kind, 'DiscontinuousKDLoss'))
    return MODELS.build(
        dict(
            type='mcod_plugin.MultiBackboneClassifier',
            input_size=32,
            branches=branches,
            teacher=TEACHERS.get(kind),
            recompute=kind == 'recompute',
            distill=distill))


def make_batches():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(len(KD_WEIGHTS), 6, 3, 32, 32, generator=generator)


def train(kind, cohort):
    """The steps; what each has logged."""
    optim_wrapper = OptimWrapper(
        torch.optim.SGD(
            [value for value in cohort.parameters() if value.requires_grad],
            lr=.1,
            momentum=.9))
    logged = []
    for step, (kd_weight, batch) in enumerate(zip(KD_WEIGHTS, make_batches())):
        cohort.kd_weight = kd_weight
        if kind == 'own_weights' and kd_weight:
            # One process has nobody to distil in one step.
            cohort.kd_weights.update(wide=0., middle=float(step - 1))
        cohort.ratio_due = step == 1
        samples = [DataSample().set_gt_label(i % 5) for i in range(len(batch))]
        cohort.data_preprocessor.forward = lambda data, training=False: data
        logged.append(
            cohort.train_step(
                dict(inputs=batch, data_samples=samples), optim_wrapper))
    cohort.eval()
    with torch.no_grad():
        predicted = cohort(batch)
    return dict(
        logged=[{
            key: value.item()
            for key, value in row.items()
        } for row in logged],
        predicted=predicted,
        state_dict=cohort.state_dict())


def train_share(kinds):
    """What a process comes to by its branches, and how often it has sent
    something in each step."""
    join_mesh(dist.get_world_size())
    sent, send = [], branch_peers.all_gather

    def counted(tensor, group):
        sent.append(tensor.numel())
        return send(tensor, group)

    branch_peers.all_gather = counted
    found = {}
    for kind in kinds:
        cohort = make_cohort(kind)
        layout = BranchLayout(cohort)
        with layout.whole():
            cohort.init_weights()
        assert set(cohort.peers.own) == {
            key.split('.')[1]
            for key in cohort.state_dict() if key.startswith('branches.')
        }
        sent.clear()
        result = train(kind, cohort)
        found[kind] = dict(
            result,
            sent=list(sent),
            shares=layout.shares,
            random_state=torch.get_rng_state(),
            collected=layout.collect(dict(state_dict=result['state_dict'])))
    return found


@pytest.fixture(scope='module')
def shares(ranks):
    return ranks(train_share, [*KINDS, 'dropout'], size=3)


@pytest.mark.parametrize('kind', KINDS)
def test_as_one_process(shares, kind):
    cohort = make_cohort(kind)
    cohort.init_weights()
    before = copy.deepcopy(cohort.state_dict())
    whole = train(kind, cohort)
    found = [share[kind] for share in shares]
    for share in found:
        assert share['shares'] == found[0]['shares']
        assert torch.equal(share['predicted'], whole['predicted'])
        # Each knows all of the distillation, and its branches' own losses.
        for row, other in zip(share['logged'], whole['logged']):
            for key, value in row.items():
                assert key == 'loss' or other[key] == value, key
    whole_keys = set().union(*whole['logged'])
    assert set().union(*(row for share in found
                         for row in share['logged'])) == whole_keys
    collected = found[0]['collected']['state_dict']
    assert list(collected) == list(whole['state_dict'])
    for key, value in collected.items():
        assert torch.equal(value, whole['state_dict'][key]), key
        # What is of no branch is replicated.
        for share in found:
            if key in share['state_dict']:
                assert torch.equal(share['state_dict'][key], value), key
    assert any(not torch.equal(value, before[key])
               for key, value in collected.items())


@pytest.mark.parametrize('kind', ['mean', 'peers', 'coupled'])
def test_only_logits_travel_and_only_if_they_distil(shares, kind):
    """6 images of 5 classes; two of a process where another has one."""
    for share in shares:
        most = max(map(len, share[kind]['shares']))
        assert most == 2
        # In the first step the pull is measured, which takes the gradients;
        # the last is the prediction.
        assert share[kind]['sent'] == [most * 6 * 5] * 4


def test_dropout_moves_no_other_random_numbers(shares):
    """Those that augment the images of the next step, in all processes."""
    first, *others = (share['dropout'] for share in shares)
    assert first['state_dict'].keys() != others[0]['state_dict'].keys()
    for other in others:
        assert torch.equal(other['random_state'], first['random_state'])


def draw(peers):
    before = torch.get_rng_state()
    numbers = []
    for name in ('a', 'b', 'a'):
        with peers.randomness(name, torch.device('cpu')):
            numbers.append(torch.rand(3))
    assert torch.equal(torch.get_rng_state(), before)
    return numbers


def test_a_branch_draws_numbers_of_its_own():
    torch.manual_seed(1)
    peers = branch_peers.BranchPeers([['a', 'b']], ['a', 'b'])
    first, other, second = draw(peers)
    assert not torch.equal(first, other) and not torch.equal(first, second)
    # It goes on, wherever the global generator stands.
    torch.rand(5)
    third, *_ = draw(peers)
    assert not any(torch.equal(third, value) for value in (first, second))
    # Another process with branch b alone draws the same.
    alone = branch_peers.BranchPeers([['b']], ['a', 'b'])
    with alone.randomness('b', torch.device('cpu')):
        assert torch.equal(torch.rand(3), other)
    # A seed begins anew, as that of an epoch.
    torch.manual_seed(2)
    anew, *_ = draw(peers)
    torch.manual_seed(1)
    again, *_ = draw(branch_peers.BranchPeers([['a', 'b']], ['a', 'b']))
    assert torch.equal(again, first) and not torch.equal(anew, first)
