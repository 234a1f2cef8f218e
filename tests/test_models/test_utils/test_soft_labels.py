import pytest
import torch

from mcod_plugin.models.utils.soft_labels import soft_labels
from mcod_plugin.structures import BatchDataSample

LOGITS = torch.zeros(3, 4, dtype=torch.double)
ONE_HOT = [[0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]]
SCORES = torch.tensor([[.5, .5, 0, 0], [0, 1, 0, 0], [.25, .25, .25, .25]])


def make_batch(**fields):
    return BatchDataSample(gt_label=torch.tensor([2, 0, 3]), **fields)


def forms(batch):
    """The batch as a whole, as a list, and with a sample asked for."""
    touched = BatchDataSample(**batch.fields)
    touched[0]
    return [batch, list(BatchDataSample(**batch.fields)), touched]


@pytest.mark.parametrize('form', range(3))
@pytest.mark.parametrize('fields, expected', [
    ({}, ONE_HOT),
    (dict(gt_score=torch.tensor(ONE_HOT)), ONE_HOT),
    (dict(gt_score=SCORES), SCORES.tolist()),
])
def test_labels(form, fields, expected):
    batch = make_batch(**fields)
    labels = soft_labels(forms(batch)[form], LOGITS)
    assert labels.dtype == torch.double and labels.tolist() == expected
    assert not batch.touched


def test_change_of_a_sample_counts():
    batch = make_batch()
    batch[1].set_gt_label(3)
    assert soft_labels(batch, LOGITS).argmax(1).tolist() == [2, 3, 3]


def test_scores_alone():
    batch = BatchDataSample(gt_score=SCORES)
    assert torch.equal(soft_labels(batch, LOGITS), SCORES.double())
