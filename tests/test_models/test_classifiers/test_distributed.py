"""Two processes, each with half of a batch, against one with all of it."""
import copy
import sys

import pytest
import torch
import torch.distributed as dist
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from mmengine.registry import init_default_scope
from mmpretrain.structures import DataSample

from mcod_plugin.registry import MODELS

pytestmark = pytest.mark.skipif(
    not dist.is_available() or not dist.is_gloo_available(),
    reason='needs gloo')

WORLD_SIZE = 2
# off, on, on harder
KD_WEIGHTS = [0., .5, 2.]
# a teacher with parameters, averages, one that is not trained, a loss with a
# state, and one with parameters
KINDS = ['ensemble', 'gated', 'averaged', 'frozen', 'balanced', 'features']


def make_cohort(kind):
    """No norm or dropout that would depend on how a batch is split."""
    torch.manual_seed(0)
    teacher = dict(
        ensemble=None,
        gated=dict(type='mcod_plugin.GatedTeacher'),
        averaged=dict(type='mcod_plugin.EnsembleTeacher', ema=.5),
        frozen=dict(type='mcod_plugin.EnsembleTeacher', members='fixed'))
    distill = dict(balanced='BalancedKDLoss', features='FeatureKDLoss')
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
        len(KD_WEIGHTS), 4, 3, 32, 32, generator=generator).double()


def train(model, cohort, rank=0, world_size=1):
    """The steps of one process; the totals that it logs."""
    wrapper = OptimWrapper(
        torch.optim.SGD(
            cohort.parameters(), lr=.1, momentum=.9, weight_decay=1e-3))
    totals = []
    for kd_weight, batch in zip(KD_WEIGHTS, make_batches()):
        cohort.kd_weight = kd_weight
        part = slice(rank, None, world_size)
        samples = [DataSample().set_gt_label(i) for i in range(len(batch))]
        # The preprocessor would make single precision of it.
        cohort.data_preprocessor.forward = lambda data, training=False: data
        logs = model.train_step(
            dict(inputs=batch[part], data_samples=samples[part]), wrapper)
        totals.append(logs['loss'].item())
    return totals


def run_rank(folder, rank):
    """What each of the processes does."""
    torch.set_num_threads(1)
    init_default_scope('mmpretrain')
    dist.init_process_group(
        'gloo',
        init_method=f'file://{folder}/rendezvous',
        rank=rank,
        world_size=WORLD_SIZE)
    results = {}
    for kind in KINDS:
        cohort = make_cohort(kind)
        model = MMDistributedDataParallel(cohort, device_ids=None)
        totals = train(model, cohort, rank, WORLD_SIZE)
        results[kind] = dict(totals=totals, state_dict=cohort.state_dict())
    torch.save(results, f'{folder}/{rank}.pth')
    dist.destroy_process_group()


@pytest.fixture(scope='module')
def results(two_processes, tmp_path_factory):
    """What each of the processes comes to."""
    folder = tmp_path_factory.mktemp('ranks')
    two_processes(__file__, folder)
    return [torch.load(folder / f'{rank}.pth') for rank in range(WORLD_SIZE)]


@pytest.mark.parametrize('kind', KINDS)
def test_two_processes(results, kind):
    cohort = make_cohort(kind)
    before = copy.deepcopy(cohort.state_dict())
    totals = train(cohort, cohort)
    # the loss of the whole batch is the mean of the halves'
    parts = [result[kind]['totals'] for result in results]
    assert parts[0] != parts[1]
    means = [sum(pair) / WORLD_SIZE for pair in zip(*parts)]
    assert means == pytest.approx(totals, rel=1e-10)
    for key, value in cohort.state_dict().items():
        first, second = (result[kind]['state_dict'][key]
                         for result in results)
        assert torch.equal(first, second), key
        torch.testing.assert_close(first, value, rtol=1e-9, atol=1e-11)
        if key.startswith('branches.fixed.'):
            assert torch.equal(first, before[key])
        elif key.endswith(('head.fc.weight', 'gate.weight', 'squares')):
            assert not torch.equal(value, before[key])


# Started as a script, since a spawned process could not import a test module
# that has no package.
if __name__ == '__main__':
    run_rank(sys.argv[1], int(sys.argv[2]))
