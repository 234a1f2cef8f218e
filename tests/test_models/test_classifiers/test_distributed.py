"""Several processes, each with its share of a batch, against one with all of
it."""
import copy

import pytest
import torch
import torch.distributed as dist
from mmengine.model import ExponentialMovingAverage
from mmengine.optim import OptimWrapper
from mmpretrain.structures import DataSample
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func

from mcod_plugin.engine.runner.compile_settings import compile_branches
from mcod_plugin.engine.runner.processes import wrap_for_processes
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
# parameters, a step for two batches, activations that are computed twice, and
# averages of what is trained
KINDS = [
    'ensemble', 'confidence', 'gated', 'averaged', 'frozen', 'peers', 'dkd',
    'balanced', 'features', 'accumulation', 'recomputed', 'ema'
]
# Settings of the wrapper, each with a teacher whose parameters have nothing
# to do in off-phases.
WRAPPERS = dict(
    buckets=dict(bucket_cap_mb=.01),
    copies=dict(gradient_as_bucket_view=False),
    unused=dict(find_unused_parameters=True),
    static=dict(static_graph=True))
# What the branches are compiled by, as graphs of several parts.
COMPILED = dict(
    compiled=dict(bucket_cap_mb=.01),
    replayed=dict(bucket_cap_mb=.01),
    replayed_copies=dict(
        bucket_cap_mb=.01, gradient_as_bucket_view=False, static_graph=True))


def make_cohort(kind):
    """No norm or dropout that would depend on how a batch is split."""
    torch.manual_seed(0)
    teacher = dict(
        confidence=dict(
            type='mcod_plugin.EnsembleTeacher', fusion='confidence'),
        peers=dict(type='mcod_plugin.PeerTeacher'),
        **dict.fromkeys(('gated', *WRAPPERS, *COMPILED),
                        dict(type='mcod_plugin.GatedTeacher')),
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
            recompute=kind == 'recomputed',
            distill=dict(type='mcod_plugin.' +
                         distill.get(kind, 'DiscontinuousKDLoss'))))
    cohort.init_weights()
    return cohort.double()


class Replays:
    """What compiles to programs that write to the same memory at every call,
    as CUDA graphs do. It is lost from step to step, as where other graphs use
    it, too.
    """

    def __init__(self):
        self.places, self.parts = [], 0

    def __call__(self, module, inputs):
        self.parts += 1
        return aot_autograd(
            fw_compiler=self._program, bw_compiler=self._program)(module,
                                                                  inputs)

    def _program(self, module, inputs):
        places = []

        def run(*args):
            found = module(*args)
            given = {
                value.untyped_storage().data_ptr()
                for value in args if torch.is_tensor(value)
            }
            if not places:
                places.extend(
                    value.clone() if torch.is_tensor(value) and value.
                    untyped_storage().data_ptr() not in given else None
                    for value in found)
                self.places += filter(torch.is_tensor, places)
            return [
                value if place is None else place.copy_(value).detach()
                for place, value in zip(places, found)
            ]

        return make_boxed_func(run)

    def lose(self):
        for place in self.places:
            place.fill_(torch.nan if place.is_floating_point() else 0)


def make_batches():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(
        len(KD_WEIGHTS), IMAGES, 3, 32, 32, generator=generator).double()


def train(kind, model, cohort, rank=0, world_size=1, before=None):
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
        if before is not None:
            before()
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
    rank, size = dist.get_rank(), dist.get_world_size()
    results = {}
    for kind in [*KINDS, *(WRAPPERS if size == 2 else ())]:
        cohort = make_cohort(kind)
        model = wrap_for_processes(cohort, WRAPPERS.get(kind), False)
        results[kind] = train(kind, model, cohort, rank, size)
    # PyTorch has no smaller parts of what is compiled.
    dist._DEFAULT_FIRST_BUCKET_BYTES = 1000
    for kind in COMPILED if size == 2 else ():
        cohort = make_cohort(kind)
        model = wrap_for_processes(cohort, COMPILED[kind], False)
        replays = Replays()
        plain = kind == 'compiled'
        compile_branches(cohort.branches,
                         dict(backend='aot_eager' if plain else replays))
        results[kind] = train(kind, model, cohort, rank, size,
                              None if plain else replays.lose)
        results[kind]['parts'] = replays.parts
    return results


@pytest.fixture(scope='module')
def results(ranks):
    """What each of the processes comes to, by their number."""
    return {size: ranks(train_share, size=size) for size in SIZES}


def test_compiled_branches_are_in_parts(results):
    """That end where gradients are on their way to the other process."""
    for kind in ('replayed', 'replayed_copies'):
        assert all(result[kind]['parts'] >= 6 for result in results[2])


@pytest.mark.parametrize('kind', [*KINDS, *WRAPPERS, *COMPILED])
def test_as_one_process(results, kind):
    cohort = make_cohort(kind)
    before = copy.deepcopy(cohort.state_dict())
    whole = train(kind, cohort, cohort)
    for size, of_size in results.items():
        if kind not in of_size[0]:
            continue
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
