import logging
import math
import os
import pickle
from itertools import combinations

import pytest
import torch
from mmengine.evaluator import Evaluator
from mmengine.logging import MMLogger
from mmpretrain.evaluation import Accuracy
from mmpretrain.structures import DataSample

from mcod_plugin.errors import ConfigError
from mcod_plugin.evaluation import (BranchMetrics, pairwise_disagreement,
                                    topk_hits)
from mcod_plugin.registry import METRICS

BRANCHES = ('vgg', 'alexnet', 'resnet')


def make_samples(num, classes, branches=BRANCHES, seed=0):
    """Data samples as a cohort predicts them, with ties among the scores."""
    generator = torch.Generator().manual_seed(seed)

    def scores():
        # few distinct logits give many ties
        logits = torch.randint(0, 4, (classes, ), generator=generator)
        return logits.float().softmax(dim=0)

    samples = []
    for _ in range(num):
        label = torch.randint(classes, (1, ), generator=generator)
        sample = DataSample().set_gt_label(label)
        for name in branches:
            sample.set_field(scores(), f'pred_score_{name}')
        sample.set_pred_score(scores())
        sample.set_pred_label(sample.pred_score.argmax().item())
        samples.append(sample)
    return samples


def evaluate(samples, batch_size=7, **kwargs):
    evaluator = Evaluator(dict(type='mcod_plugin.BranchMetrics', **kwargs))
    for start in range(0, len(samples), batch_size):
        evaluator.process(samples[start:start + batch_size])
    return evaluator.evaluate(len(samples))


def accuracy_of(samples, field, topk):
    """MMPretrain's own numbers for the scores in one field."""
    metric = Accuracy(topk=topk)
    metric.process(None, [
        dict(pred_score=sample.get(field), gt_label=sample.gt_label)
        for sample in samples
    ])
    return metric.evaluate(len(samples))


@pytest.mark.parametrize('classes', [5, 10, 200])
def test_agrees_with_mmpretrain(classes):
    samples = make_samples(61, classes)
    metrics = evaluate(samples, topk=(1, 3, 5))
    for name in ('ensemble', *BRANCHES):
        field = 'pred_score' if name == 'ensemble' else f'pred_score_{name}'
        expected = accuracy_of(samples, field, topk=(1, 3, 5))
        for k in (1, 3, 5):
            if k < classes:
                assert metrics[f'{name}/top{k}'] == pytest.approx(
                    expected[f'accuracy/top{k}'], abs=1e-4)


def test_agrees_with_loops():
    generator = torch.Generator().manual_seed(1)
    scores = torch.rand(40, 3, 6, generator=generator)
    target = torch.randint(6, (40, ), generator=generator)
    labels, hits = topk_hits(scores, target, (1, 4))
    assert labels.shape == (40, 3) and hits.shape == (40, 3, 2)
    for n in range(40):
        for p in range(3):
            row = scores[n, p].tolist()
            ranking = sorted(range(6), key=lambda c: -row[c])
            assert labels[n, p] == ranking[0]
            assert hits[n, p].tolist() == [
                target[n].item() in ranking[:1], target[n].item()
                in ranking[:4]
            ]
    disagreement = 0
    for i, j in combinations(range(3), 2):
        differing = [labels[n, i] != labels[n, j] for n in range(40)]
        disagreement += sum(map(bool, differing)) / 40 / 3
    assert pairwise_disagreement(labels) == pytest.approx(disagreement)


@pytest.mark.parametrize('score', [0., float('nan')])
def test_worthless_scores_are_no_hits(score):
    scores = torch.full((2, 1, 4), score)
    for k in (1, 4):
        assert not topk_hits(scores, torch.tensor([0, 1]), (k, ))[1].any()


def test_disagreement_by_hand():
    # pairs (0, 1): 2 of 4 differ, (0, 2): 1 of 4, (1, 2): 3 of 4
    labels = torch.tensor([[0, 0, 0], [1, 2, 1], [3, 3, 4], [5, 6, 5]])
    assert pairwise_disagreement(labels) == pytest.approx((2 + 1 + 3) / 12)
    assert pairwise_disagreement(labels[:, :2]) == 0.5
    assert pairwise_disagreement(labels[:, [0, 0, 0]]) == 0
    assert pairwise_disagreement(torch.tensor([[0, 1], [1, 0]])) == 1
    assert pairwise_disagreement(labels[:, :1]) == 0


def test_by_hand():
    """Two branches and the ensemble on two samples of three classes."""

    def sample(label, ensemble, first, second):
        return dict(
            gt_label=torch.tensor([label]),
            pred_score=torch.tensor(ensemble),
            pred_score_a=torch.tensor(first),
            pred_score_b=torch.tensor(second))

    samples = [
        sample(0, [.5, .3, .2], [.5, .3, .2], [.3, .6, .1]),
        sample(2, [.5, .3, .2], [.2, .3, .5], [.1, .1, .8]),
    ]
    assert evaluate(
        samples, topk=(1, 2)) == {
            'ensemble/top1': 50.0,
            'ensemble/top2': 50.0,
            'a/top1': 100.0,
            'a/top2': 100.0,
            'b/top1': 50.0,
            'b/top2': 100.0,
            'diversity/disagreement': 0.5,
        }


def test_names_and_order():
    metrics = evaluate(make_samples(9, 10), topk=(5, 1))
    assert list(metrics) == [
        'ensemble/top1', 'ensemble/top5', 'alexnet/top1', 'alexnet/top5',
        'resnet/top1', 'resnet/top5', 'vgg/top1', 'vgg/top5',
        'diversity/disagreement'
    ]
    # plain numbers, for JSON logs
    assert all(type(value) is float for value in metrics.values())


@pytest.mark.parametrize('topk', [(1, 5), (2, )])
@pytest.mark.parametrize('batch_size', [1, 7, 61])
def test_calibration(topk, batch_size):
    samples = make_samples(61, 10)
    metrics = evaluate(samples, batch_size, topk=topk, calibration_bins=4)
    expected = evaluate(samples, topk=topk)
    names = ('ensemble', 'alexnet', 'resnet', 'vgg')
    # after the accuracies, before the diversity
    keys = list(expected)
    assert list(metrics) == [
        *keys[:-1], *(f'{name}/ece' for name in names), keys[-1]
    ]
    for name in names:
        field = 'pred_score' if name == 'ensemble' else f'pred_score_{name}'
        error = 0.
        for lower, upper in ((0, .25), (.25, .5), (.5, .75), (.75, 1)):
            gap = 0.
            for sample in samples:
                score = sample.get(field)
                if lower < score.max().item() <= upper:
                    # of equal scores the one that counts as the prediction
                    label = score.topk(max(topk)).indices[0]
                    gap += (label == sample.gt_label).item() - max(
                        score.tolist())
            error += abs(gap) / 61
        assert error > 0.01
        assert metrics.pop(f'{name}/ece') == pytest.approx(100 * error)
    assert metrics == expected


def test_calibration_of_worthless_scores():
    """What is no hit is not correct either."""
    samples = [sample.to_dict() for sample in make_samples(8, 3, ['a'])]
    for sample in samples:
        sample['pred_score'] = torch.zeros(3)
        sample['pred_score_a'] = torch.full((3, ), math.nan)
    metric = BranchMetrics(calibration_bins=15)
    metric.process(None, samples)
    metrics = metric.evaluate(8)
    assert metrics['ensemble/ece'] == metrics['ensemble/top1'] == 0
    assert math.isnan(metrics['a/ece'])


def test_branch_that_predicts_nothing():
    """One that was left out: no number of its, and no share in others'."""
    samples = [sample.to_dict() for sample in make_samples(20, 10)]
    for sample in samples:
        sample.pop('pred_score_vgg')
    expected = evaluate(samples)
    for sample in samples:
        sample['pred_score_vgg'] = torch.full((10, ), math.nan)
    metrics = evaluate(samples)
    for key in ('vgg/top1', 'vgg/top5'):
        assert math.isnan(metrics.pop(key))
    assert metrics == expected and expected['diversity/disagreement'] > 0
    # of one image only, it is just wrong there
    samples[0]['pred_score_vgg'] = torch.full((10, ), .1)
    assert evaluate(samples)['vgg/top5'] in (0, 5)


@pytest.mark.parametrize('bins', [0, 1.5, True, '15'])
def test_bad_calibration_bins(bins):
    with pytest.raises(
            ConfigError,
            match='calibration_bins of BranchMetrics must be an integer of '
            'at least 1; got '):
        BranchMetrics(calibration_bins=bins)


def test_topk_as_a_number():
    assert BranchMetrics(topk=5).topk == (5, )


def test_few_classes_with_the_defaults():
    assert list(evaluate(make_samples(9, 3, branches=['a']))) == [
        'ensemble/top1', 'a/top1', 'diversity/disagreement'
    ]
    # below the number of classes by one
    assert 'a/top5' in evaluate(make_samples(9, 6, branches=['a']))
    assert 'a/top5' not in evaluate(make_samples(9, 5, branches=['a']))


def test_one_branch():
    samples = make_samples(9, 10, branches=['a'])
    for sample in samples:
        sample.set_pred_score(sample.pred_score_a)
    metrics = evaluate(samples)
    assert metrics['ensemble/top5'] == metrics['a/top5']
    assert metrics['diversity/disagreement'] == 0


def test_low_precision_scores():
    samples = make_samples(9, 10)
    for sample in samples:
        for name in BRANCHES:
            field = f'pred_score_{name}'
            sample.set_field(sample.get(field).bfloat16(), field)
        sample.set_pred_score(sample.pred_score.bfloat16())
    as_float = accuracy_of(samples, 'pred_score_vgg', topk=(1, ))
    assert evaluate(samples)['vgg/top1'] == pytest.approx(
        as_float['accuracy/top1'], abs=1e-4)


@pytest.mark.parametrize('bins', [None, 15])
def test_results_are_small(bins):
    metric = BranchMetrics(calibration_bins=bins)
    samples = [sample.to_dict() for sample in make_samples(50, 1000)]
    metric.process(None, samples)
    assert len(metric.results) == 50
    assert len(pickle.dumps(metric.results)) < 50 * 500


def test_no_warning_about_the_prefix(caplog):
    logger = MMLogger.get_instance('test_branch_metrics_prefix')
    logger.addHandler(caplog.handler)
    BranchMetrics()
    assert not caplog.records
    # what it would look like
    type('Bare', (BranchMetrics, ), dict(default_prefix=None))()
    assert any(record.levelno == logging.WARNING for record in caplog.records)


@pytest.mark.parametrize(
    'topk', [(), 0, 1.5, (1, -1), (1, 2.5), True, ('1', )])
def test_bad_topk(topk):
    with pytest.raises(ConfigError, match='topk of BranchMetrics'):
        METRICS.build(dict(type='mcod_plugin.BranchMetrics', topk=topk))


@pytest.mark.parametrize('missing, message', [
    (['gt_label'], 'needs gt_label'),
    ([f'pred_score_{name}' for name in BRANCHES], 'pred_score_<branch>'),
    (['pred_score'], 'needs pred_score '),
])
def test_missing_fields(missing, message):
    samples = [sample.to_dict() for sample in make_samples(3, 10)]
    # no label in the last sample, no score in any of them
    for sample in samples[-1:] if missing == ['gt_label'] else samples:
        for field in missing:
            del sample[field]
    with pytest.raises(ConfigError, match=message) as caught:
        BranchMetrics().process(None, samples)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('num', [11, 12])
def test_two_processes(ranks, tmp_path, num):
    """An odd number is padded by the sampler: the first sample comes twice."""
    expected = evaluate(make_samples(num, 10), calibration_bins=15)
    for metrics in ranks(evaluate_share, tmp_path, num):
        assert metrics == expected
        assert list(metrics) == list(expected)


def evaluate_share(folder, num):
    """What each of the two processes does."""
    from mmengine.dataset import DefaultSampler
    samples = make_samples(num, 10)
    metric = BranchMetrics(
        calibration_bins=15, collect_dir=os.path.join(folder, 'collect'))
    indices = list(DefaultSampler(samples, shuffle=False))
    assert len(indices) == (num + 1) // 2
    for start in range(0, len(indices), 4):
        metric.process(
            None,
            [samples[index].to_dict() for index in indices[start:start + 4]])
    return metric.evaluate(num)
