import copy
import pickle

import pytest
import torch
from mmpretrain.structures import DataSample

from mcod_plugin.structures import BatchDataSample, batch_fields

NUM = 5


def make_fields():
    generator = torch.Generator().manual_seed(0)

    def scores():
        return torch.rand(NUM, 4, generator=generator).softmax(1)

    return dict(
        gt_label=torch.tensor([3, 1, 0, 2, 1]),
        gt_score=scores(),
        sample_idx=torch.tensor([7, 2, 30, 4, 11]),
        pred_label=torch.tensor([1, 1, 0, 2, 3]),
        pred_score=scores(),
        pred_score_net=scores(),
        mask=torch.rand(NUM, 2, 2, generator=generator))


def make_samples(fields):
    """The same as the toolbox has it."""
    samples = []
    for i in range(NUM):
        sample = DataSample(
            metainfo=dict(sample_idx=fields['sample_idx'][i].item()))
        sample.set_gt_label(fields['gt_label'][i])
        sample.set_gt_score(fields['gt_score'][i])
        sample.set_pred_label(fields['pred_label'][i])
        sample.set_pred_score(fields['pred_score'][i])
        sample.set_field(fields['pred_score_net'][i], 'pred_score_net')
        sample.set_mask(fields['mask'][i])
        samples.append(sample)
    return samples


def assert_same(sample, expected):
    assert type(sample) is DataSample
    assert set(sample.keys()) == set(expected.keys())
    assert set(sample.metainfo_keys()) == set(expected.metainfo_keys())
    for key, value in expected.all_items():
        own = sample.get(key)
        assert type(own) is type(value), key
        if isinstance(value, torch.Tensor):
            assert own.shape == value.shape and own.dtype == value.dtype, key
            assert torch.equal(own, value), key
        else:
            assert own == value, key


def test_is_the_list():
    fields = make_fields()
    batch, expected = BatchDataSample(**fields), make_samples(fields)
    assert len(batch) == len(expected) == NUM
    assert [sample.sample_idx for sample in batch] == [7, 2, 30, 4, 11]
    for own, sample in zip(batch, expected):
        assert_same(own, sample)
    assert batch[0].num_classes == 4
    assert batch[0].gt_label.shape == batch[0].pred_label.shape == (1, )
    assert batch[0].pred_score_net.shape == (4, )
    assert batch[0].mask.shape == (2, 2)


@pytest.mark.parametrize('index', [0, 4, -1, -5, torch.tensor(2)])
def test_index(index):
    fields = make_fields()
    batch = BatchDataSample(**fields)
    assert_same(batch[index], make_samples(fields)[index])
    assert batch[index] is batch[int(index) % NUM]


@pytest.mark.parametrize('index', [
    slice(None),
    slice(1, 3),
    slice(-2, None),
    slice(None, None, -2),
    slice(3, 100),
    slice(4, 2)
])
def test_slice(index):
    fields = make_fields()
    batch, expected = BatchDataSample(**fields), make_samples(fields)[index]
    part = batch[index]
    assert type(part) is list and len(part) == len(expected)
    for own, sample in zip(part, expected):
        assert_same(own, sample)
    assert all(any(own is sample for sample in batch) for own in part)


@pytest.mark.parametrize('index', [5, -6, 100])
def test_index_beyond(index):
    with pytest.raises(IndexError, match=f'5 samples; got {index}$'):
        BatchDataSample(**make_fields())[index]


def test_touched():
    batch = BatchDataSample(**make_fields())
    len(batch), batch.fields['gt_label'], repr(batch)
    assert not batch.touched
    with pytest.raises(IndexError):
        batch[NUM]
    assert batch[2:2] == [] and not batch.touched
    assert batch_fields(batch) is batch.fields
    batch[2]
    assert batch.touched
    # A sample may have changed since.
    assert batch_fields(batch) is None
    assert batch_fields(list(batch)) is None is batch_fields(None)


def test_changes_last():
    batch = BatchDataSample(gt_label=torch.tensor([3, 1]))
    batch[0].set_gt_label(2)
    batch[1].set_field('x', 'note')
    assert [int(sample.gt_label) for sample in batch] == [2, 1]
    assert batch[-1].note == 'x' and 'note' not in batch[0]


def test_samples_are_apart():
    """Neither writing into one nor pickling it involves the whole batch."""
    fields = dict(pred_score=torch.zeros(1000, 1000))
    batch = BatchDataSample(**fields)
    batch[3].pred_score[:] = 1
    assert not fields['pred_score'].any() and not batch[4].pred_score.any()
    assert len(pickle.dumps(batch[3])) < 20_000


def test_copies():
    batch = BatchDataSample(**make_fields())
    batch[1].set_gt_label(0)
    for other in (copy.deepcopy(batch), pickle.loads(pickle.dumps(batch))):
        assert other.touched and int(other[1].gt_label) == 0
        assert torch.equal(other.fields['gt_score'], batch.fields['gt_score'])


def test_labels_alone():
    sample = BatchDataSample(gt_label=torch.tensor([3, 1]))[1]
    assert_same(sample, DataSample().set_gt_label(1))


def test_repr():
    batch = BatchDataSample(
        gt_label=torch.tensor([3, 1]), gt_score=torch.zeros(2, 4))
    assert repr(batch) == 'BatchDataSample(gt_label=(2,), gt_score=(2, 4))'


@pytest.mark.parametrize('fields, lengths', [
    (dict(gt_label=torch.zeros(3), gt_score=torch.zeros(2, 3)), '[2, 3]'),
    (dict(), '[]'),
])
def test_lengths_that_differ(fields, lengths):
    with pytest.raises(ValueError) as info:
        BatchDataSample(**fields)
    assert str(info.value) == ('the fields of a batch must have the same '
                               f'length; got {lengths}')
