import json
import pickle
import re
import runpy

import numpy as np
import pytest
import torch

from .conftest import ROOT


def metrics_of(out, phase):
    """Metrics of the last evaluation in a log."""
    text = out[out.rindex(f'Epoch({phase})'):]
    return {
        key: float(value)
        for key, value in re.findall(r'(\S+/\S+): ([\d.]+)', text)
    }


@pytest.fixture
def test(run_tool, trained, tiny):
    """Runs the tool on the last checkpoint of a tiny run."""

    def run(*args, **kwargs):
        done = run_tool(
            'test',
            'tiny.py',
            trained.work_dir / 'epoch_2.pth',
            *args,
            cwd=tiny,
            **kwargs)
        assert done.code == 0 and done.err == '', done.err
        return done

    return run


def test_same_as_the_last_validation(test, trained):
    done = test(fresh=True)
    metrics = metrics_of(done.out, 'test')
    assert metrics == metrics_of(trained.out, 'val')
    assert {'resnet/top1', 'vgg/top1', 'ensemble/top1'} < set(metrics)
    assert re.search(r'│ ensemble +│ +[\d.]+ │', done.out)


@pytest.mark.parametrize('args', [[], ['--out-item', 'metrics']])
def test_out_metrics(test, trained, tiny, args):
    test('--out', 'metrics.json', *args)
    metrics = json.loads((tiny / 'metrics.json').read_text())
    assert metrics == pytest.approx(metrics_of(trained.out, 'val'), abs=1e-4)


def test_out_metrics_pickled(test, trained, tiny):
    test('--out', 'metrics.pkl', '--out-item', 'metrics')
    metrics = pickle.loads((tiny / 'metrics.pkl').read_bytes())
    assert metrics == pytest.approx(metrics_of(trained.out, 'val'), abs=1e-4)


def test_out_metrics_that_are_no_numbers(test, tiny):
    with open(tiny / 'tiny.py', 'a') as file:
        file.write("test_evaluator = dict(_delete_=True, "
                   "type='ConfusionMatrix')\n")
    test('--out', 'metrics.json')
    (matrix, ) = json.loads((tiny / 'metrics.json').read_text()).values()
    assert len(matrix) == 10 and sum(map(sum, matrix)) == 40


def test_metrics_as_plain_data():
    plain = runpy.run_path(str(ROOT / 'tools' / 'test.py'))['plain']
    given = dict(
        top1=np.float32(0.5),
        count=torch.tensor(3),
        by_class=dict({1: np.arange(2)}, kind=(None, True, 'x')),
        device=torch.device('cpu'))
    found = plain(given)
    assert found == dict(
        top1=0.5,
        count=3,
        by_class=dict({'1': [0, 1]}, kind=[None, True, 'x']),
        device='cpu')
    assert json.loads(json.dumps(found)) == found


def test_out_predictions(test, trained, tiny):
    test('--out', 'predictions.pkl')
    samples = pickle.loads((tiny / 'predictions.pkl').read_bytes())
    assert [sample['sample_idx'] for sample in samples] == list(range(40))
    metrics = metrics_of(trained.out, 'val')
    for field, name in (('pred_score', 'ensemble'),
                        ('pred_score_resnet', 'resnet'), ('pred_score_vgg',
                                                          'vgg')):
        hits = [
            int(sample[field].argmax()) == int(sample['gt_label'])
            for sample in samples
        ]
        assert 100 * sum(hits) / 40 == pytest.approx(metrics[f'{name}/top1'])


def test_amp(test, tiny):
    scores = []
    for name, args in (('single', []), ('mixed', ['--amp'])):
        test('--out', f'{name}.pkl', *args)
        samples = pickle.loads((tiny / f'{name}.pkl').read_bytes())
        scores.append(
            torch.stack([sample['pred_score'] for sample in samples]))
    single, mixed = scores
    assert mixed.dtype == torch.float32
    assert not torch.equal(mixed, single)
    torch.testing.assert_close(mixed, single, atol=0.05, rtol=0)


def test_work_dir(test, tiny):
    test('--work-dir', 'logs')
    assert not (tiny / 'work_dirs').exists()
    assert list(tiny.glob('logs/*/*.log'))


def test_test_time_augmentation(test, trained, tiny):
    test('--out', 'plain.pkl')
    done = test('--tta', '--out', 'tta.pkl')
    assert re.search(r'│ vgg +│ +[\d.]+ │', done.out)
    plain, merged = (
        pickle.loads((tiny / name).read_bytes())
        for name in ('plain.pkl', 'tta.pkl'))
    assert len(merged) == len(plain) == 40
    hits = dict.fromkeys(('pred_score', 'pred_score_resnet'), 0)
    for sample, one in zip(merged, plain):
        assert sample['gt_label'].equal(one['gt_label'])
        assert sample['pred_label'].item() == sample['pred_score'].argmax()
        for key in hits:
            # The image itself is one of two versions.
            assert not torch.equal(sample[key], one[key])
            assert (sample[key] >= one[key] / 2 - 1e-6).all()
            hits[key] += int(sample[key].argmax()) == sample['gt_label'].item()
    metrics = metrics_of(done.out, 'test')
    assert metrics['ensemble/top1'] == pytest.approx(
        100 * hits['pred_score'] / 40)
    assert metrics['resnet/top1'] == pytest.approx(
        100 * hits['pred_score_resnet'] / 40)
    # Versions that are all the image itself change nothing.
    (tiny / 'tiny.py').write_text(
        (tiny / 'tiny.py').read_text() +
        "tta_model = dict(type='mmpretrain.AverageClsScoreTTA')\n"
        "tta_pipeline = [dict(type='TestTimeAug', transforms=[\n"
        "    3 * [dict(type='RandomFlip', prob=0.)],\n"
        "    [dict(type='PackInputs')]])]\n")
    test('--tta', '--out', 'same.pkl')
    for sample, one in zip(
            pickle.loads((tiny / 'same.pkl').read_bytes()), plain):
        for key in hits:
            torch.testing.assert_close(sample[key], one[key])


def test_test_time_augmentation_without_a_pipeline(run_tool, trained, tiny):
    with open(tiny / 'tiny.py', 'a') as file:
        file.write('test_dataloader = dict(dataset=dict(_delete_=True,\n'
                   "    type='ConcatDataset', datasets=[]))\n")
    done = run_tool(
        'test',
        'tiny.py',
        trained.work_dir / 'epoch_2.pth',
        '--tta',
        cwd=tiny)
    assert done.code == 2 and done.err == (
        'error: --tta: test_dataloader.dataset must have a pipeline; got a '
        "dataset of type 'ConcatDataset' without one\n")
