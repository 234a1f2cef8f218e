"""The toolbox's own tools on a cohort; docs/mmpretrain.md lists them."""
import re
import shutil
from pathlib import Path

import mmcv
import mmengine
import mmpretrain
import numpy as np
import pytest
import torch

from mcod_plugin.datasets import Digits
from .test_train import losses, validations

# They come with its package.
TOOLBOX = Path(mmpretrain.__file__).parent / '.mim' / 'tools'


@pytest.fixture(scope='module')
def toolbox(run_tool):
    """Runs a tool of the toolbox, and returns its exit code and output."""

    def run(tool, *args, cwd, fails=False):
        done = run_tool(
            str(TOOLBOX / tool), *args, cwd=cwd, env=dict(MPLBACKEND='Agg'))
        assert fails == (done.code != 0), done.err
        return done

    return run


@pytest.fixture(scope='module')
def predictions(toolbox, trained, tmp_path_factory):
    """What ``tools/test.py --out`` writes."""
    folder = tmp_path_factory.mktemp('predictions')
    path = folder / 'toolbox.pkl'
    toolbox(
        'test.py',
        'tiny.py',
        trained.work_dir / 'epoch_2.pth',
        '--out',
        path,
        '--work-dir',
        folder,
        cwd=trained.folder)
    return path


def test_resume(toolbox, trained, tiny):
    work_dir = tiny / 'work_dirs' / 'tiny'
    work_dir.mkdir(parents=True)
    shutil.copy(trained.work_dir / 'epoch_1.pth', work_dir)
    (work_dir / 'last_checkpoint').write_text(str(work_dir / 'epoch_1.pth'))
    done = toolbox('train.py', 'tiny.py', '--resume', cwd=tiny)
    assert validations(done.out) == validations(trained.out)[1:]


def test_auto_scale_lr(toolbox, tiny):
    (tiny / 'scaled.py').write_text("_base_ = ['tiny.py']\n"
                                    'auto_scale_lr = dict(base_batch_size=64)')
    done = toolbox(
        'train.py',
        'scaled.py',
        '--auto-scale-lr',
        '--no-validate',
        '--cfg-options',
        'train_cfg.max_epochs=1',
        cwd=tiny)
    # half the batch, half the learning rate
    assert float(losses(done.out)[0]['lr']) == pytest.approx(0.005)


@pytest.mark.skipif(torch.cuda.is_available(), reason='needs no GPU')
def test_amp_needs_a_gpu(toolbox, tiny):
    done = toolbox('train.py', 'tiny.py', '--amp', cwd=tiny, fails=True)
    assert done.err.splitlines()[-1].endswith(
        'ConfigError: optim_wrapper.type AmpOptimWrapper needs a GPU, and '
        'this machine has none; mcod_plugin.AutocastOptimWrapper is mixed '
        'precision on any device')


def test_amp_of_evaluation(toolbox, trained, tiny, predictions):
    toolbox(
        'test.py',
        'tiny.py',
        trained.work_dir / 'epoch_2.pth',
        '--amp',
        '--out',
        'mixed.pkl',
        cwd=tiny)
    single, mixed = (
        torch.stack([sample['pred_score'] for sample in mmengine.load(path)])
        for path in (predictions, tiny / 'mixed.pkl'))
    assert not torch.equal(mixed, single)
    torch.testing.assert_close(mixed, single, atol=0.05, rtol=0)


def test_time_augmentation(toolbox, trained, tiny, predictions):
    done = toolbox(
        'test.py',
        'tiny.py',
        trained.work_dir / 'epoch_2.pth',
        '--tta',
        '--out',
        'tta.pkl',
        '--out-item',
        'pred',
        cwd=tiny)
    assert 'vgg/top1' in done.out
    merged = mmengine.load(tiny / 'tta.pkl')
    for sample, one in zip(merged, mmengine.load(predictions)):
        for key in ('pred_score', 'pred_score_vgg'):
            # The image itself is one of two versions.
            assert not torch.equal(sample[key], one[key])
            assert sample[key].sum().item() == pytest.approx(1, abs=1e-5)
            assert (sample[key] >= one[key] / 2 - 1e-6).all()


def test_offline_metrics(toolbox, trained, predictions):
    done = toolbox(
        'analysis_tools/eval_metric.py',
        predictions,
        '--metric',
        'type=Accuracy',
        'topk=1,5',
        '--metric',
        'type=mcod_plugin.BranchMetrics',
        'topk=1',
        cwd=trained.folder)
    found = {
        key: float(value)
        for key, value in re.findall(r"'(\S+/\S+)': ([\d.]+)", done.out)
    }
    known = validations(trained.out)[-1]
    assert found['accuracy/top1'] == pytest.approx(known['ensemble/top1'])
    for name in ('resnet/top1', 'vgg/top1', 'diversity/disagreement'):
        assert found[name] == pytest.approx(known[name], abs=1e-4)


@pytest.mark.parametrize('source', ['predictions', 'checkpoint'])
def test_confusion_matrix(toolbox, trained, tiny, predictions, source):
    toolbox(
        'analysis_tools/confusion_matrix.py',
        'tiny.py',
        predictions if source == 'predictions' else trained.work_dir /
        'epoch_2.pth',
        '--out',
        'matrix.pkl',
        '--show-path',
        'matrix.png',
        cwd=tiny)
    matrix = np.zeros((10, 10))
    for sample in mmengine.load(predictions):
        matrix[int(sample['gt_label']), int(sample['pred_label'])] += 1
    np.testing.assert_array_equal(mmengine.load(tiny / 'matrix.pkl'), matrix)
    assert (tiny / 'matrix.png').is_file()


def test_hits_and_misses(toolbox, tiny, predictions):
    """The pictures are those of the data, enlarged."""
    toolbox(
        'analysis_tools/analyze_results.py',
        'tiny.py',
        predictions,
        '--out-dir',
        'results',
        '--topk',
        '2',
        cwd=tiny)
    for name in ('success', 'fail'):
        folder = tiny / 'results' / name
        assert (folder / f'{name}.json').is_file()
        assert len(list(folder.glob('*.png'))) == 2


def test_curves(toolbox, trained, tiny):
    (log, ) = trained.work_dir.glob('*/vis_data/scalars.json')
    toolbox(
        'analysis_tools/analyze_logs.py',
        'plot_curve',
        log,
        '--keys',
        'resnet.loss_ce',
        'ensemble/top1',
        '--out',
        'curves.png',
        cwd=tiny)
    assert (tiny / 'curves.png').is_file()
    done = toolbox(
        'analysis_tools/analyze_logs.py',
        'cal_train_time',
        log,
        '--include-outliers',
        cwd=tiny)
    assert re.search(r'average iter time: [\d.]+ s/iter', done.out)


def test_flops(toolbox, trained, tiny):
    """Of the cohort, with a row for each branch."""
    done = toolbox(
        'analysis_tools/get_flops.py', 'tiny.py', '--shape', '32', cwd=tiny)
    parts = {
        name: float(value)
        for name, value in re.findall(
            r'\| +(?:branches\.)?(resnet|vgg) +\| +[\d.]+K +\| +([\d.]+)M',
            done.out)
    }
    (total, ) = re.findall(r'Flops: ([\d.]+)M', done.out)
    assert set(parts) == {'resnet', 'vgg'}
    assert sum(parts.values()) == pytest.approx(float(total), abs=2e-3)


def test_flops_of_a_network_for_one_size(toolbox, tiny):
    """Its config says the size, and without data nothing else does."""
    with open(tiny / 'tiny.py', 'a') as file:
        file.write("""
model['branches']['vit'] = dict(
    backbone=dict(
        type='TIMMBackbone', model_name='vit_tiny_patch16_224', img_size=64,
        embed_dim=16, depth=1, num_heads=2),
    head=dict(type='LinearClsHead', num_classes=10))
""")
    done = toolbox(
        'analysis_tools/get_flops.py', 'tiny.py', '--shape', '64', cwd=tiny)
    assert 'Input shape: (3, 64, 64)' in done.out
    assert re.search(r'branches\.vit', done.out)


def test_schedule_of_the_learning_rate(toolbox, tiny):
    args = ('tiny.py', '--not-show', '-s', 'lr.png')
    toolbox(
        'visualization/vis_scheduler.py',
        *args,
        '--cfg-options',
        'custom_hooks=None',
        cwd=tiny)
    assert (tiny / 'lr.png').is_file()
    # It trains a model of its own, which is no cohort.
    done = toolbox(
        'visualization/vis_scheduler.py', *args, cwd=tiny, fails=True)
    assert 'DiscontinuousKDHook needs a model' in done.err.splitlines()[-1]


def test_images_of_the_data(toolbox, tiny):
    toolbox(
        'visualization/browse_dataset.py',
        'tiny.py',
        '--not-show',
        '--phase',
        'test',
        '--mode',
        'original',
        '--show-number',
        '3',
        '--output-dir',
        'images',
        '--channel-order',
        'RGB',
        cwd=tiny)
    known = Digits('test', size=32, pipeline=[])
    for index in range(3):
        image = mmcv.imread(str(tiny / 'images' / f'{index}.jpg'))
        # Above, the label is written over it; JPEG changes the rest a little.
        difference = image[16:] - known.get_data_info(index)['img'][16:] * 1.0
        assert abs(difference).mean() < 2


def test_published_checkpoint(toolbox, trained, tiny):
    toolbox(
        'model_converters/publish_model.py',
        trained.work_dir / 'epoch_2.pth',
        'slim.pth',
        cwd=tiny)
    (path, ) = tiny.glob('slim_*.pth')
    full = torch.load(trained.work_dir / 'epoch_2.pth', weights_only=True)
    slim = torch.load(path, weights_only=True)
    assert 'optimizer' in full
    assert set(slim) == {'meta', 'state_dict', 'run_record'}
    assert all(
        torch.equal(slim['state_dict'][key], value)
        for key, value in full['state_dict'].items())
    done = toolbox('test.py', 'tiny.py', path, cwd=tiny)
    assert 'ensemble' in done.out[done.out.rindex('Result:'):]


def test_whole_config(toolbox, tiny):
    done = toolbox('misc/print_config.py', 'tiny.py', cwd=tiny)
    text = re.sub(r'\s+', ' ', done.out)
    assert "type='mcod_plugin.MultiBackboneClassifier'" in text
    assert 'mcod_plugin.DiscontinuousKDHook' in text
