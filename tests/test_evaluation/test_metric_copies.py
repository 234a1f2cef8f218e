"""BranchMetrics(metric=...): any metrics for each branch and the ensemble."""
import math
from itertools import combinations

import pytest
import torch
from mmengine.evaluator import BaseMetric, Evaluator
from mmpretrain.evaluation import (Accuracy, AveragePrecision,
                                   MultiLabelMetric, SingleLabelMetric)
from mmpretrain.registry import METRICS as MMPRETRAIN_METRICS
from mmpretrain.structures import DataSample

from mcod_plugin.errors import ConfigError
from mcod_plugin.evaluation import (BranchMetrics, CohortEvaluator,
                                    decision_disagreement)
from mcod_plugin.registry import METRICS
from mcod_plugin.structures import BatchDataSample

BRANCHES = ('vgg', 'resnet')
MANY = dict(type='MultiLabelMetric', thr=.5), dict(type='AveragePrecision')


@METRICS.register_module()
class Width(BaseMetric):
    """A user's, which reads the label, the data and what the data set is."""
    default_prefix = 'width'

    def process(self, data_batch, data_samples):
        for sample in data_samples:
            fields = sorted(key for key in sample if 'pred' in key)
            assert fields == ['pred_label', 'pred_score']
            self.results.append(sample['pred_label'].item())

    def compute_metrics(self, results):
        return dict(
            mean=sum(results) / len(results),
            classes=len(self.dataset_meta['classes']))


MMPRETRAIN_METRICS.register_module(name='TheirWidth', module=Width)


def make_samples(num, several=False, branches=BRANCHES, seed=0, classes=4):
    generator = torch.Generator().manual_seed(seed)
    samples = []
    for _ in range(num):
        number = torch.randint(0, classes, (), generator=generator)
        labels = torch.randperm(
            classes, generator=generator)[:number if several else 1]
        sample = DataSample().set_gt_label(labels)
        sample.set_pred_score(torch.rand(classes, generator=generator))
        sample.set_pred_label(sample.pred_score.argmax()[None])
        for name in branches:
            sample.set_field(
                torch.rand(classes, generator=generator), f'pred_score_{name}')
        samples.append(sample)
    return samples


def evaluate(samples, batch_size=7, **kwargs):
    evaluator = Evaluator(dict(type='mcod_plugin.BranchMetrics', **kwargs))
    evaluator.dataset_meta = dict(classes=['a', 'b', 'c', 'd'])
    for _ in range(2):
        # The second time it starts anew.
        for start in range(0, len(samples), batch_size):
            evaluator.process(samples[start:start + batch_size])
        found = evaluator.evaluate(len(samples))
    return found


def alone(samples, field, metric):
    """A metric of MMPretrain's on the scores in one field."""
    metric.process(None, [
        dict(
            pred_score=sample.get(field),
            pred_label=sample.get(field).argmax()[None],
            gt_label=sample.gt_label) for sample in samples
    ])
    return metric.evaluate(len(samples))


def fields(branches=BRANCHES):
    return dict(
        ensemble='pred_score',
        **{name: f'pred_score_{name}'
           for name in branches})


def test_agrees_with_mmpretrain():
    samples = make_samples(31)
    found = evaluate(samples, metric=dict(type='SingleLabelMetric'))
    # The accuracy stays, and comes first.
    assert list(found)[0] == 'ensemble/top1'
    assert found['diversity/disagreement'] == evaluate(
        samples)['diversity/disagreement']
    values = set()
    for name, field in fields().items():
        expected = alone(samples, field, SingleLabelMetric())
        for key in ('precision', 'recall', 'f1-score'):
            assert found[f'{name}/{key}'] == pytest.approx(
                expected[f'single-label/{key}'])
        values.add(found[f'{name}/recall'])
    assert len(values) == 3


def test_images_of_several_labels():
    samples = make_samples(31, several=True)
    found = evaluate(samples, metric=MANY)
    assert set(found) == {
        'diversity/disagreement',
        *(f'{name}/{key}' for name in fields()
          for key in ('precision', 'recall', 'f1-score', 'mAP'))
    }
    for name, field in fields().items():
        for metric in (MultiLabelMetric(thr=.5), AveragePrecision()):
            for key, value in alone(samples, field, metric).items():
                key = key.rpartition('/')[2]
                assert found[f'{name}/{key}'] == pytest.approx(value), key
    # gt_score alone will do
    for sample in samples:
        sample.set_gt_score(
            torch.nn.functional.one_hot(sample.gt_label, 4).sum(0))
        del sample.gt_label
    assert evaluate(samples, metric=MANY) == pytest.approx(found)


def test_disagreement_of_several_labels():
    samples = make_samples(12, several=True, branches='abc')
    total = 0
    for sample in samples:
        for one, other in combinations('abc', 2):
            total += sum((x >= .5) != (y >= .5) for x, y in zip(
                sample.get(f'pred_score_{one}').tolist(),
                sample.get(f'pred_score_{other}').tolist())) / 4 / 3
    found = evaluate(samples, metric=MANY)['diversity/disagreement']
    assert found == pytest.approx(total / 12) and 0 < found < 1
    # One that predicts nothing has no share in it.
    for sample in samples:
        sample.set_field(torch.full((4, ), math.nan), 'pred_score_d')
    less = evaluate(samples, metric=MANY)
    assert less['diversity/disagreement'] == pytest.approx(found)
    assert math.isnan(less['d/mAP']) and not math.isnan(less['a/mAP'])
    one = torch.ones(2, 1, 3, dtype=torch.bool)
    assert decision_disagreement(one, one[..., 0]).tolist() == [0, 0]


@pytest.mark.parametrize('batch', [False, True])
@pytest.mark.parametrize('kind', [
    'Width', 'mcod_plugin.Width', 'TheirWidth', 'mmpretrain.TheirWidth', Width
])
def test_metric_of_a_user(kind, batch):
    samples = make_samples(9)
    if batch:
        evaluator = CohortEvaluator(
            BranchMetrics(metric=dict(type=kind), topk=()))
        evaluator.dataset_meta = dict(classes=['a', 'b', 'c', 'd'])
        evaluator.process(
            BatchDataSample(
                gt_label=torch.cat([sample.gt_label for sample in samples]),
                pred_label=torch.cat([sample.pred_label
                                      for sample in samples]),
                **{
                    field: torch.stack([s.get(field) for s in samples])
                    for field in fields().values()
                }))
        found = evaluator.evaluate(9)
    else:
        found = evaluate(samples, metric=[dict(type=kind)], topk=())
    found.pop('diversity/disagreement')
    assert found == {
        key: value
        for name, field in fields().items()
        for key, value in ((f'{name}/mean',
                            sum(s.get(field).argmax().item()
                                for s in samples) / 9), (f'{name}/classes', 4))
    }


class Calibration(BaseMetric):
    """One with a name of BranchMetrics' own."""

    def process(self, data_batch, data_samples):
        self.results += data_samples

    def compute_metrics(self, results):
        return dict(ece=0.)


def test_a_name_twice():
    samples = make_samples(5)
    accuracy = dict(type='Accuracy', topk=(1, ))
    # What nobody asked for gives way.
    found = evaluate(samples, metric=accuracy)
    assert found['vgg/top1'] == pytest.approx(
        alone(samples, 'pred_score_vgg', Accuracy())['accuracy/top1'])
    for settings in (
            dict(metric=[accuracy, dict(accuracy, prefix='x')]),
            dict(metric=[accuracy, accuracy]),
            dict(
                metric=[accuracy, dict(type='Accuracy', topk=(1, 2))]),
            dict(metric=accuracy, topk=(1, 2)),
            dict(metric=dict(type=Calibration), calibration_bins=5)):
        with pytest.raises(ConfigError, match='twice|both give ') as caught:
            evaluate(samples, **settings)
        assert '\n' not in str(caught.value)
    with pytest.raises(ConfigError, match='one BranchMetrics; got 2'):
        CohortEvaluator([BranchMetrics(), BranchMetrics(metric=accuracy)])


@pytest.mark.parametrize('metric, words', [
    (dict(type='SingleLabelMetric', items=['x']), 'metric x is not'),
    (dict(type='SingleLabelMetric', thrr=3), 'SingleLabelMetric'),
    (dict(type='mcod_plugin.BranchMetrics'), 'must be a metric'),
    ('Accuracy', "got 'Accuracy'"),
])
def test_bad_metric(metric, words):
    with pytest.raises(ConfigError, match='metric of BranchMetrics') as caught:
        BranchMetrics(metric=metric)
    assert words in str(caught.value) and '\n' not in str(caught.value)


@pytest.mark.parametrize('settings, words', [
    (dict(), 'topk of '),
    (dict(metric=MANY, topk=(1, )), 'topk of '),
    (dict(metric=MANY, calibration_bins=3), 'calibration_bins of '),
])
def test_what_several_labels_have_not(settings, words):
    with pytest.raises(ConfigError, match=words) as caught:
        evaluate(make_samples(9, several=True), **settings)
    assert 'one label' in str(caught.value)
    assert '\n' not in str(caught.value)


def test_two_processes(ranks):
    """An odd number is padded by the sampler: the first sample comes twice."""
    expected = evaluate(make_samples(11, several=True), metric=MANY)
    for found in ranks(evaluate_share):
        assert found == pytest.approx(expected)


def evaluate_share():
    """What each of the two processes does."""
    from mmengine.dataset import DefaultSampler
    samples = make_samples(11, several=True)
    metric = BranchMetrics(metric=MANY)
    for index in DefaultSampler(samples, shuffle=False):
        metric.process(None, [samples[index].to_dict()])
    return metric.evaluate(11)
