"""Several processes, each with its share of a batch, against one with all of
it."""
import copy
import os
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
from mmengine.model import (ExponentialMovingAverage,
                            MMDistributedDataParallel)
from mmengine.optim import OptimWrapper
from mmengine.registry import init_default_scope
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


def run_rank(folder, rank, size):
    """What each of the processes does."""
    torch.set_num_threads(1)
    init_default_scope('mmpretrain')
    dist.init_process_group(
        'gloo',
        init_method=f'file://{folder}/rendezvous_{size}',
        rank=rank,
        world_size=size)
    results = {}
    for kind in KINDS:
        cohort = make_cohort(kind)
        model = MMDistributedDataParallel(cohort, device_ids=None)
        results[kind] = train(kind, model, cohort, rank, size)
    torch.save(results, f'{folder}/{rank}_of_{size}.pth')
    dist.destroy_process_group()


def run_processes(folder):
    """As many processes as each of the sizes says, one size after the other.

    They are forks of this one, which has used no thread yet, so that the
    libraries are imported once.
    """
    for size in SIZES:
        children = []
        for rank in range(size):
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    run_rank(folder, rank, size)
                    code = 0
                finally:
                    sys.stderr.flush()
                    os._exit(code)
            children.append(child)
        if any([os.waitpid(child, 0)[1] for child in children]):
            sys.exit(f'one of {size} processes failed')


@pytest.fixture(scope='module')
def results(tmp_path_factory):
    """What each of the processes comes to, by their number."""
    folder = tmp_path_factory.mktemp('ranks')
    path = os.pathsep.join(filter(None, sys.path))
    subprocess.run([sys.executable, __file__, folder],
                   env={
                       **os.environ, 'PYTHONPATH': path,
                       'OMP_NUM_THREADS': '1'
                   },
                   timeout=300,
                   check=True)
    return {
        size:
        [torch.load(folder / f'{rank}_of_{size}.pth') for rank in range(size)]
        for size in SIZES
    }


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


# Started as a script, since pytest itself has threads that a fork would lose.
if __name__ == '__main__':
    torch.set_num_threads(1)
    run_processes(sys.argv[1])
