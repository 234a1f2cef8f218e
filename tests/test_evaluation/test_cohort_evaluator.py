"""Batches of which each field is one tensor, against one by one."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
from mmengine.evaluator import Evaluator
from mmengine.fileio import load
from mmengine.registry import EVALUATOR as ROOT_EVALUATORS

from mcod_plugin.errors import ConfigError
from mcod_plugin.evaluation import BranchMetrics, CohortEvaluator
from mcod_plugin.registry import EVALUATORS
from mcod_plugin.structures import BatchDataSample

METRICS = [
    dict(type='mcod_plugin.BranchMetrics', topk=(1, 3), calibration_bins=15),
    # The toolbox's, for which the samples are made.
    dict(type='Accuracy', topk=(1, 3)),
]
BRANCHES = ('vgg', 'alexnet', 'resnet')


def make_fields(num=61, classes=10, dtype=torch.float32):
    """Predictions of a cohort, with ties among the scores."""
    generator = torch.Generator().manual_seed(0)

    def scores():
        logits = torch.randint(0, 4, (num, classes), generator=generator)
        return logits.float().softmax(1).to(dtype)

    fields = dict(
        gt_label=torch.randint(classes, (num, ), generator=generator),
        sample_idx=torch.arange(num),
        pred_score=scores())
    fields['pred_label'] = fields['pred_score'].argmax(1)
    for name in BRANCHES:
        fields[f'pred_score_{name}'] = scores()
    return fields


def batches(fields, indices=None, size=7):
    """Batches of the images of those numbers."""
    if indices is None:
        indices = range(len(fields['sample_idx']))
    for start in range(0, len(indices), size):
        part = torch.tensor(indices[start:start + size])
        yield BatchDataSample(**{
            name: value[part]
            for name, value in fields.items()
        })


def evaluate(evaluator, fields, prepare=lambda batch: batch):
    for batch in batches(fields):
        evaluator.process(prepare(batch))
    return evaluator.evaluate(len(fields['sample_idx']))


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('classes', [3, 5, 10, 200])
def test_same_numbers(classes, dtype):
    fields = make_fields(classes=classes, dtype=dtype)
    expected = evaluate(Evaluator(METRICS), fields, list)
    for prepare in (lambda batch: batch, list):
        metrics = evaluate(CohortEvaluator(METRICS), fields, prepare)
        assert metrics == expected
        assert list(metrics) == list(expected)
    assert metrics['ensemble/top1'] == pytest.approx(
        metrics['accuracy/top1'], abs=1e-4)


def test_same_results():
    """What is kept of each sample, and gathered from other processes."""
    one, other = BranchMetrics(), BranchMetrics()
    for batch in batches(make_fields()):
        one.process_batch(batch.fields)
        other.process(None, [sample.to_dict() for sample in batch])
    assert len(one.results) == len(other.results) == 61
    for result, expected in zip(one.results, other.results):
        assert result.keys() == expected.keys()
        for key, value in expected.items():
            np.testing.assert_array_equal(result[key], value)


def test_samples_are_made_for_others_only():
    for metrics, touched in ((METRICS[:1], False), (METRICS, True)):
        evaluator = CohortEvaluator(metrics)
        for batch in batches(make_fields()):
            evaluator.process(batch)
            assert batch.touched is touched
            # MMEngine's loops look at the last one.
            batch[-1]
    assert evaluator.evaluate(61)['ensemble/top1'] > 0


def test_dumped(tmp_path):
    path = tmp_path / 'predictions.pkl'
    fields = make_fields(1000, 100)
    evaluate(
        CohortEvaluator(
            [METRICS[0],
             dict(type='DumpResults', out_file_path=str(path))]), fields)
    samples = load(path)
    assert [sample['sample_idx'] for sample in samples] == list(range(1000))
    for name in ('gt_label', 'pred_label', 'pred_score', 'pred_score_vgg'):
        rows = torch.stack([sample[name] for sample in samples])
        assert torch.equal(rows.view_as(fields[name]), fields[name])
    # Each has its own scores only, not those of its batch.
    assert path.stat().st_size < 1000 * 10_000


@pytest.mark.parametrize('missing, message', [
    ('gt_label', 'needs gt_label in every'),
    ('pred_score_', 'pred_score_<branch>'),
    ('pred_score', 'needs pred_score '),
])
def test_missing_fields(missing, message):
    fields = {
        name: value
        for name, value in make_fields().items()
        if not (name == missing
                or missing.endswith('_') and name.startswith(missing))
    }
    with pytest.raises(ConfigError, match=message) as info:
        evaluate(CohortEvaluator(METRICS[:1]), fields)
    assert '\n' not in str(info.value)


def test_registered():
    for registry in (EVALUATORS, ROOT_EVALUATORS):
        evaluator = registry.build(
            dict(type='mcod_plugin.CohortEvaluator', metrics=METRICS))
        assert type(evaluator) is CohortEvaluator
        assert len(evaluator.metrics) == 2


@pytest.mark.parametrize('given, kind', [
    (METRICS[0], CohortEvaluator),
    (METRICS, CohortEvaluator),
    (dict(metrics=METRICS), Evaluator),
    (dict(type='mcod_plugin.CohortEvaluator',
          metrics=METRICS), CohortEvaluator),
])
def test_of_a_runner(tiny_runner, given, kind):
    evaluator = tiny_runner().build_evaluator(given)
    assert type(evaluator) is kind


def test_a_run(tiny_runner):
    """The same numbers whichever way the images come and are evaluated."""
    found = []
    for name, changes in dict(
            batches={},
            single=dict(in_memory=False),
            plain={
                'val_evaluator': dict(metrics=METRICS[:], _delete_=True)
            },
    ).items():
        changes.setdefault('val_evaluator', METRICS[:])
        runner = tiny_runner(name, 1, **changes)
        runner.train_loop  # its hooks want one
        found.append(runner.val())
    assert found[0] == found[1] == found[2]
    assert {'resnet/top1', 'vit/top3', 'accuracy/top3'} < set(found[0])
    assert found[0]['ensemble/top3'] == pytest.approx(
        found[0]['accuracy/top3'], abs=1e-4)


@pytest.mark.skipif(
    not dist.is_available() or not dist.is_gloo_available(),
    reason='needs gloo')
def test_two_processes(ranks, num=25):
    """An odd number is padded by the sampler: the first sample comes twice."""
    expected = evaluate(Evaluator(METRICS), make_fields(num), list)
    for metrics in ranks(evaluate_share, num):
        assert metrics == expected


def evaluate_share(num):
    """What each of the two processes does."""
    from mmengine.dataset import DefaultSampler
    fields = make_fields(num)
    evaluator = CohortEvaluator(METRICS)
    indices = list(DefaultSampler(range(num), shuffle=False))
    assert len(indices) == (num + 1) // 2
    for batch in batches(fields, indices, size=4):
        evaluator.process(batch)
    return evaluator.evaluate(num)
