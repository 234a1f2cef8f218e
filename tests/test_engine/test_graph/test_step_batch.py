import pytest
import torch
from mmpretrain.structures import DataSample

from mcod_plugin.engine.graph.step_batch import StepBatch


def batch(*labels):
    return dict(
        inputs=torch.zeros(len(labels), 3, 4, 4),
        data_samples=[DataSample().set_gt_label(label) for label in labels])


def test_one_label_each():
    found = StepBatch.of(batch([2], [0], [1]))
    assert found.fields['gt_label'].tolist() == [2, 0, 1]


@pytest.mark.parametrize('labels', [([0, 1], [2, 3]), ([0], [1, 2])])
def test_several_labels_are_no_row(labels):
    """Also if all images of a batch have as many."""
    assert StepBatch.of(batch(*labels)) is None
