from itertools import islice

import pytest
import torch.distributed as dist
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmpretrain.datasets import RepeatAugSampler

from mcod_plugin.engine.parallel import sample_by_data_rank
from mcod_plugin.errors import ConfigError
from mcod_plugin.evaluation import CohortEvaluator
from mcod_plugin.utils.mesh import branch_rank, data_rank, join_mesh

pytestmark = pytest.mark.skipif(
    not dist.is_available() or not dist.is_gloo_available(),
    reason='needs gloo')
IMAGES = list(range(11))


class Numbers:
    """A metric that keeps what it is given."""

    def __init__(self):
        self.results = []

    def process(self, data_batch, data_samples):
        self.results += [sample['number'] for sample in data_samples]

    def evaluate(self, size):
        found, self.results = self.results, []
        return dict(found=found)


def look():
    join_mesh(2)
    samplers = dict(
        shuffled=DefaultSampler(IMAGES, seed=0),
        even=DefaultSampler(IMAGES, shuffle=False, seed=0),
        uneven=DefaultSampler(IMAGES, shuffle=False, seed=0, round_up=False),
        infinite=InfiniteSampler(IMAGES, seed=0))
    found = dict(place=(data_rank(), branch_rank()))
    for key, sampler in samplers.items():
        sample_by_data_rank(sampler)
        found[key] = list(islice(sampler, 20))
        if key != 'infinite':
            assert len(sampler) == len(found[key])
    evaluator = CohortEvaluator([])
    evaluator.metrics, evaluator.images = [Numbers()], len(IMAGES)
    for _ in range(2):
        # Batches of 4, 1 and 1.
        for batch in (found['even'][:4], found['even'][4:5],
                      found['even'][5:]):
            evaluator.process([dict(number=number) for number in batch])
        found['own'] = evaluator.evaluate(len(IMAGES))['found']
    try:
        sample_by_data_rank(RepeatAugSampler(IMAGES, seed=0))
    except ConfigError as error:
        found['error'] = str(error)
    return found


def test_who_sees_what(ranks):
    found = ranks(look, size=4)
    assert [part['place'] for part in found] == [(0, 0), (0, 1), (1, 0),
                                                 (1, 1)]
    for key in ('shuffled', 'even', 'uneven', 'infinite'):
        first, same, second, other = (part[key] for part in found)
        assert first == same and second == other, key
    assert found[0]['even'] == IMAGES[::2]
    # One is there twice, so that both have as many.
    assert found[2]['even'] == [*IMAGES[1::2], 0]
    assert found[2]['uneven'] == IMAGES[1::2]
    shuffled = found[0]['shuffled'] + found[2]['shuffled']
    assert len(shuffled) == 12 and set(shuffled) == set(IMAGES)
    every = [
        number for pair in zip(found[0]['infinite'], found[2]['infinite'])
        for number in pair
    ]
    assert sorted(every[:len(IMAGES)]) == IMAGES
    # Each prediction counts once.
    assert sorted(sum((part['own'] for part in found), [])) == IMAGES
    assert all('does not go with the sampler RepeatAugSampler' in part['error']
               for part in found)
