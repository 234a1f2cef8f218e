import numpy as np
import pytest
import torch
from mmcv.transforms import BaseTransform
from mmengine.config import Config
from mmengine.dataset import default_collate, pseudo_collate
from mmengine.registry import init_default_scope
from mmpretrain.datasets import PackInputs
from mmpretrain.registry import DATASETS, TRANSFORMS

from mcod_plugin.config.explain import explain
from mcod_plugin.datasets import BranchViews
from mcod_plugin.errors import ConfigError
from mcod_plugin.registry import TRANSFORMS as OWN

PACK = dict(type='PackInputs')
CROP = dict(type='RandomCrop', crop_size=4)


@OWN.register_module()
class Blacken(BaseTransform):
    """Writes into the image that it is given."""

    def transform(self, results):
        results['img'][:] = 0
        results['gt_label'] = 9
        return results


@OWN.register_module()
class Reject(BaseTransform):

    def transform(self, results):
        return None


BLACKEN = dict(type='mcod_plugin.Blacken')


def image():
    return dict(
        img=np.arange(1, 65, dtype=np.uint8).reshape(8, 8, 1).repeat(3, 2),
        gt_label=3,
        sample_idx=5)


def build(**pipelines):
    return TRANSFORMS.build(
        dict(type='mcod_plugin.BranchViews', pipelines=pipelines))


@pytest.mark.parametrize('scope', ['mmpretrain', 'mcod_plugin'])
def test_each_has_its_own(scope):
    init_default_scope(scope)
    views = build(a=[PACK], b=[dict(type='Resize', scale=4), PACK], c=[PACK])
    found = views(image())
    whole = torch.from_numpy(image()['img']).permute(2, 0, 1)
    assert list(found['inputs']) == ['a', 'b', 'c']
    assert torch.equal(found['inputs']['a'], whole)
    assert found['inputs']['b'].shape == (3, 4, 4)
    sample = found['data_samples']
    assert sample.gt_label.tolist() == [3] and sample.sample_idx == 5


@pytest.mark.parametrize('order', [['a', 'b'], ['b', 'a']])
def test_what_one_writes_the_others_do_not_see(order):
    pipelines = dict(a=[BLACKEN, PACK], b=[PACK])
    given = image()
    found = build(**{name: pipelines[name] for name in order})(given)
    assert not found['inputs']['a'].any() and found['inputs']['b'].all()
    assert given['img'].all() and given['gt_label'] == 3
    # The label of the first.
    assert found['data_samples'].gt_label.tolist() == [
        dict(a=9, b=3)[order[0]]
    ]


def test_each_draws_for_itself():
    views = build(a=[CROP, PACK], b=[CROP, PACK])
    np.random.seed(0)
    corners = []
    for _ in range(500):
        found = views(image())['inputs']
        corners.append([int(found[name][0, 0, 0]) - 1 for name in 'ab'])
    places = np.zeros((25, 25))
    index = {8 * top + left: 5 * top + left
             for top in range(5) for left in range(5)}
    for one, other in corners:
        places[index[one], index[other]] += 1
    assert places.sum(0).all() and places.sum(1).all()
    # Equal by chance only: one in 25.
    assert places.trace() < 500 / 10


def test_a_rejected_image_has_no_views():
    assert build(a=[PACK], b=[dict(type='mcod_plugin.Reject'), PACK])(
        image()) is None


def test_batches_of_both_kinds():
    views = build(a=[PACK], b=[CROP, PACK])
    samples = [views(image()) for _ in range(3)]
    batch = default_collate(samples)
    assert batch['inputs']['a'].shape == (3, 3, 8, 8)
    assert batch['inputs']['b'].shape == (3, 3, 4, 4)
    assert len(batch['data_samples']) == 3
    lists = pseudo_collate(samples)['inputs']
    assert [len(lists[name]) for name in 'ab'] == [3, 3]


class PackMore(PackInputs):
    pass


def test_built_transforms():
    found = BranchViews(dict(a=(PackMore(), )))(image())
    assert found['inputs']['a'].shape == (3, 8, 8)


@pytest.mark.parametrize('pipelines, words', [
    (None, 'pipelines of BranchViews must be a dict of a pipeline for each '
     'branch; got None'),
    ({}, 'got {}'),
    ([[PACK]], 'must be a dict of a pipeline for each branch; got [['),
    (dict(a=[PACK], b=[CROP]),
     'pipelines.b of BranchViews must be a list of transforms that ends with '
     'PackInputs; got RandomCrop'),
    (dict(a=[PACK, CROP]), 'pipelines.a of BranchViews must be a list of '
     'transforms that ends with PackInputs; got RandomCrop'),
    (dict(a=[]), 'ends with PackInputs; got []'),
    (dict(a=PACK), "ends with PackInputs; got {'type': 'PackInputs'}"),
    (dict(a=[dict(type='RandomCrp'), PACK]),
     "dataset.pipeline.0.pipelines.a.0.type 'RandomCrp' is no registered "
     'transform; did you mean RandomCrop'),
])
def test_mistakes(pipelines, words):
    cfg = Config(
        dict(
            dataset=dict(
                type='mcod_plugin.Digits',
                pipeline=[
                    dict(type='mcod_plugin.BranchViews', pipelines=pipelines)
                ])))
    with pytest.raises(Exception) as info:
        DATASETS.build(cfg.dataset)
    found = explain(cfg, info.value)
    assert words in str(found) and '\n' not in str(found)
    assert isinstance(found, ConfigError)
    assert 'MCOD_DEBUG' not in str(found)
