"""Several processes, each with its share of a batch, against one with all of
it."""
import copy

import pytest
import torch
import torch.distributed as dist
from mmengine.model import (ExponentialMovingAverage,
                            MMDistributedDataParallel)
from mmengine.optim import OptimWrapper
from mmpretrain.structures import DataSample

from mcod_plugin.registry import MODELS

pytestmark = pytest.mark.skipif(
    not dist.is_available() or not dist.is_gloo_available(),
    reason='needs gloo')

SIZES = [2, 3, 7]
# Images of a batch, which each number of processes divides.
IMAGES = 42
# off, on, on harder, off again
KD_WEIGHTS = [0., .5, 2., 0.]
# by confidence, a teacher with parameters, averages, one that is not trained,
# every branch of every other one, labels, a loss with a state, one with
# parameters, a step for two batches, and averages of what is trained
KINDS = [
    'ensemble', 'confidence', 'gated', 'averaged', 'frozen', 'peers', 'dkd',
    'balanced', 'features', 'accumulation', 'ema'
]


def make_cohort(kind):
    """No norm or dropout that would depend on how a batch is split."""
    torch.manual_seed(0)
    teacher = dict(
        confidence=dict(
            type='mcod_plugin.EnsembleTeacher', fusion='confidence'),
        peers=dict(type='mcod_plugin.PeerTeacher'),
        gated=dict(type='mcod_plugin.GatedTeacher'),
        averaged=dict(type='mcod_plugin.EnsembleTeacher', ema=.5),
        frozen=dict(type='mcod_plugin.EnsembleTeacher', members='fixed'))
    distill = dict(
        balanced='BalancedKDLoss',
        features='FeatureKDLoss',
        dkd='DKDLoss',
        peers='MutualKDLoss')
    head = dict(type='LinearClsHead', num_classes=5)
    alexnet = dict(
        backbone=dict(type='mcod_plugin.CifarAlexNet', width=4), head=head)
    vit = dict(
        backbone=dict(
            type='TIMMBackbone',
            model_name='vit_tiny_patch16_224',
            img_size=32,
            embed_dim=16,
            depth=1,
            num_heads=2),
        head=head)
    branches = dict(alexnet=alexnet, vit=vit)
    if kind == 'frozen':
        branches['fixed'] = dict(alexnet, frozen=True)
    cohort = MODELS.build(
        dict(
            type='mcod_plugin.MultiBackboneClassifier',
            input_size=32,
            branches=branches,
            teacher=teacher.get(kind),
            distill=dict(type='mcod_plugin.' +
                         distill.get(kind, 'DiscontinuousKDLoss'))))
    cohort.init_weights()
    return cohort.double()


def make_batches():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(
        len(KD_WEIGHTS), IMAGES, 3, 32, 32, generator=generator).double()


def train(kind, model, cohort, rank=0, world_size=1):
    """The steps of one process; the totals that it logs, and the weights and
    buffers it comes to."""
    wrapper = OptimWrapper(
        torch.optim.SGD(
            cohort.parameters(), lr=.1, momentum=.9, weight_decay=1e-3),
        accumulative_counts=2 if kind == 'accumulation' else 1)
    wrapper.initialize_count_status(model, 0, len(KD_WEIGHTS))
    averages = ExponentialMovingAverage(
        cohort, .3, update_buffers=True) if kind == 'ema' else None
    totals = []
    for kd_weight, batch in zip(KD_WEIGHTS, make_batches()):
        cohort.kd_weight = kd_weight
        part = slice(rank, None, world_size)
        samples = [DataSample().set_gt_label(i % 5) for i in range(len(batch))]
        # The preprocessor would make single precision of it.
        cohort.data_preprocessor.forward = lambda data, training=False: data
        logs = model.train_step(
            dict(inputs=batch[part], data_samples=samples[part]), wrapper)
        totals.append(logs['loss'].item())
        if averages is not None:
            averages.update_parameters(cohort)
    found = cohort.state_dict() if averages is None else averages.state_dict()
    return dict(totals=totals, state_dict=found)


def train_share():
    """What each of the processes does."""
    results = {}
    for kind in KINDS:
        cohort = make_cohort(kind)
        model = MMDistributedDataParallel(cohort, device_ids=None)
        results[kind] = train(kind, model, cohort, dist.get_rank(),
                              dist.get_world_size())
    return results


@pytest.fixture(scope='module')
def results(ranks):
    """What each of the processes comes to, by their number."""
    return {size: ranks(train_share, size=size) for size in SIZES}


@pytest.mark.parametrize('kind', KINDS)
def test_as_one_process(results, kind):
    cohort = make_cohort(kind)
    before = copy.deepcopy(cohort.state_dict())
    whole = train(kind, cohort, cohort)
    for size, of_size in results.items():
        found = [result[kind] for result in of_size]
        # the loss of the whole batch is the mean of the shares'
        totals = [result['totals'] for result in found]
        assert totals[0] != totals[1]
        means = [sum(shares) / size for shares in zip(*totals)]
        assert means == pytest.approx(whole['totals'], rel=1e-10)
        for key, value in whole['state_dict'].items():
            first = found[0]['state_dict'][key]
            for other in found[1:]:
                assert torch.equal(first, other['state_dict'][key]), key
            torch.testing.assert_close(first, value, rtol=1e-9, atol=1e-11)
    for key, value in cohort.state_dict().items():
        if key.startswith('branches.fixed.'):
            assert torch.equal(value, before[key])
        elif key.endswith(('head.fc.weight', 'gate.weight', 'squares')):
            assert not torch.equal(value, before[key])
