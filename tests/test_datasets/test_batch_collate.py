import torch
from mmengine.registry import FUNCTIONS as ROOT_FUNCTIONS
from mmpretrain.structures import DataSample

from mcod_plugin.datasets import batch_collate
from mcod_plugin.registry import FUNCTIONS


def test_registered():
    for registry in (FUNCTIONS, ROOT_FUNCTIONS):
        assert registry.get('mcod_plugin.batch_collate') is batch_collate


def test_a_batch_stays():
    batch = dict(inputs=torch.zeros(2, 3))
    assert batch_collate(batch) is batch


def test_samples_are_collated():
    samples = [DataSample().set_gt_label(label) for label in (3, 1)]
    batch = batch_collate([
        dict(inputs=torch.full((3, 4, 4), i), data_samples=sample)
        for i, sample in enumerate(samples)
    ])
    assert batch['inputs'].shape == (2, 3, 4, 4)
    assert batch['inputs'][1].unique().tolist() == [1]
    assert list(batch['data_samples']) == samples
