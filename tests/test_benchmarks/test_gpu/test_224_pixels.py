"""What the benchmarks at 224 pixels are made of, without a GPU."""
import subprocess
import sys

import imagenet_like
import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from mcod_plugin.config.read import merge_options
from mcod_plugin.engine.runner import CohortRunner
from speed.cases import cohort_runner, speed_cases

from ...tiny import ROOT

GPU = ROOT / 'benchmarks' / 'gpu'
PAIR = ROOT / 'configs' / 'mcod_resnet18_mobilenetv2_in1k.py'


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    """A folder with fewer names than the tool gives."""
    folder = tmp_path_factory.mktemp('data') / 'new' / 'imagenet'
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(imagenet_like, 'SPLITS', dict(train=2, val=1))
        patch.setattr(imagenet_like, 'DIFFERENT', 5)
        patch.setattr(sys, 'argv', ['', '--out', str(folder)])
        imagenet_like.main()
    assert list(folder.parent.iterdir()) == [folder]
    return folder


def read(path, images, *options):
    cfg = Config.fromfile(path)
    for split in ('train', 'val', 'test'):
        cfg[f'{split}_dataloader'].dataset.data_root = str(images)
    cfg.train_dataloader.batch_size = 2
    cfg.log_level = 'ERROR'
    merge_options(cfg, options)
    return cfg


def test_images(images):
    paths = sorted(images.rglob('*.JPEG'))
    assert len(paths) == 3000
    assert {path.parts[-3] for path in paths} == {'train', 'val'}
    assert sorted(path.name for path in images.iterdir()) == ['train', 'val']
    different = {path.stat().st_ino: path for path in paths}
    assert len(different) == 5
    for path in different.values():
        # ImageNet's have 108 kB on average.
        assert 95_000 < path.stat().st_size < 130_000
        with Image.open(path) as image:
            assert (image.size, image.mode) == ((500, 375), 'RGB')


def test_spectrum():
    """It falls by 1/f: twice the frequency, a quarter of the power."""
    image = imagenet_like.photograph(np.random.default_rng(1)).mean(2)
    power = np.abs(np.fft.fft2(image - image.mean()))**2
    rows, columns = map(np.fft.fftfreq, image.shape)
    frequencies = np.hypot(rows[:, None], columns)
    bands = [
        power[(edge < frequencies) & (frequencies < 1.2 * edge)].mean()
        for edge in (.04, .08, .16)
    ]
    assert np.divide(bands[:-1], bands[1:]) == pytest.approx([4, 4], rel=.25)


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / 'mine').touch()
    command = [sys.executable, GPU / 'imagenet_like.py', '--out', tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert str(tmp_path) in done.stderr and done.stderr.count('\n') == 1
    assert [path.name for path in tmp_path.iterdir()] == ['mine']


def memory_options():
    """What the page tells for images in memory."""
    text = (GPU / 'README.md').read_text()
    options = text.partition('\nM="')[2].partition('"')[0]
    # The shell joins its lines.
    options = options.replace('\\\n', '').split()
    assert len(options) == 4
    return options


@pytest.mark.filterwarnings('ignore:.pin_memory')
def test_images_in_memory(images):
    """No file is read in training, and a batch is as large as before."""
    options = memory_options()
    options[-1] = options[-1].replace('2048', '6')
    shapes = []
    for settings in ((), options):
        cfg = read(PAIR, images, *settings)
        loader = CohortRunner.build_dataloader(cfg.train_dataloader, 0)
        assert len(loader.dataset) == (6 if settings else 2000)
        shapes.append(np.shape(next(iter(loader))['inputs'][0]))
    assert shapes == [(3, 224, 224)] * 2
    assert loader.dataset.images.shape == (6, 224, 224, 3)


@pytest.mark.filterwarnings('ignore:.pin_memory')
def test_a_view_for_each_network(images, tmp_path):
    cfg = read(GPU / 'two_views_in1k.py', images)
    batch = next(iter(CohortRunner.build_dataloader(cfg.train_dataloader, 0)))
    views = batch['inputs']
    assert list(views) == list(cfg.model.branches)
    one, other = (views[name][0] for name in views)
    assert one.shape == other.shape == (3, 224, 224)
    assert (one != other).any()
    # MMPretrain makes one of them.
    build = speed_cases(cfg, 0, {})['data/toolbox-0'].args[1].args[0]
    batch = next(iter(build(str(tmp_path)).train_dataloader))
    assert batch['inputs'][0].shape == (3, 224, 224)


def test_resnet50_and_vit(images, tmp_path):
    runner = cohort_runner(
        read(GPU / 'resnet50_vits_in1k.py', images), str(tmp_path))
    sizes = {
        name: sum(value.numel() for value in branch.parameters())
        for name, branch in runner.model.branches.items()
    }
    # Of torchvision and of DeiT.
    assert sizes == dict(resnet=25_557_032, vit=22_050_664)
    wrapper = runner.build_optim_wrapper(runner.cfg.optim_wrapper)
    optimizers = wrapper.optimizer.optimizers
    assert isinstance(optimizers[''], torch.optim.SGD)
    assert isinstance(optimizers['vit'], torch.optim.AdamW)
