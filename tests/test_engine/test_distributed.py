"""Runs of several processes: stopped and resumed, by as many or by others,
and validated."""
import itertools
import shutil
import sys
import uuid
from pathlib import Path

import matplotlib.pyplot  # noqa: F401
import pytest
import sklearn.datasets  # noqa: F401
import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS

# What a run needs is imported here, before the processes fork.
import mcod_plugin.datasets  # noqa: F401
import mcod_plugin.engine  # noqa: F401
import mcod_plugin.models  # noqa: F401
from mcod_plugin.errors import ConfigError
from mcod_plugin.registry import RUNNERS

pytestmark = pytest.mark.skipif(
    not dist.is_available() or not dist.is_gloo_available(),
    reason='needs gloo')

# Numbers of processes of which one begins a run that another one ends.
SIZES = (1, 2, 3)
# Those that validate.
VALIDATED = (1, 2, 3, 7)
IMAGES = 360
# Neither norm nor dropout, which would depend on how a batch is split.
STEADY = dict(
    _delete_=True,
    alexnet=dict(
        backbone=dict(type='mcod_plugin.CifarAlexNet', width=4),
        head=dict(type='LinearClsHead', num_classes=10)),
    vit=dict(
        backbone=dict(
            type='TIMMBackbone',
            model_name='vit_tiny_patch16_224',
            img_size=32,
            embed_dim=16,
            depth=1,
            num_heads=2),
        head=dict(type='LinearClsHead', num_classes=10)))


@METRICS.register_module()
class Indices(BaseMetric):
    """The numbers of the images that are evaluated."""
    default_prefix = 'images'

    def process(self, data_batch, data_samples):
        self.results += [int(row['sample_idx']) for row in data_samples]

    def compute_metrics(self, results):
        return dict(indices=list(results))


def build(config, work_dir, launcher='pytorch', **changes):
    """The runner of a tiny config without validation."""
    cfg = Config.fromfile(config)
    for key in ('val_cfg', 'val_dataloader', 'val_evaluator'):
        cfg[key] = None
    cfg.custom_hooks = []
    cfg.merge_from_dict({
        'work_dir': work_dir,
        'launcher': launcher,
        'randomness': dict(seed=0),
        # MMEngine keeps what it makes by this name.
        'experiment_name': uuid.uuid4().hex,
        **changes
    })
    return RUNNERS.build(cfg)


def train(runner):
    """Parameters and their states by name."""
    runner.train()
    model = getattr(runner.model, 'module', runner.model)
    optimizer = runner.optim_wrapper.optimizer
    values = {}
    for name, parameter in model.named_parameters():
        values[name] = parameter.detach()
        values.update({
            f'{name}/{key}': value
            for key, value in optimizer.state[parameter].items()
        })
    return values


def train_in_order(config, work_dir, epochs, order, **changes):
    branches = Config.fromfile(config).model.branches
    branches.vgg.lr_mult = 0.5
    runner = build(
        config, work_dir, **{
            'model.branches':
            dict(_delete_=True, **{name: branches[name]
                                   for name in order}),
            'train_cfg.max_epochs':
            epochs,
            'param_scheduler': [
                dict(type='CosineAnnealingLR', end=2, eta_min=1e-3),
                dict(type='MultiStepLR', milestones=[1], gamma=0.5, end=2)
            ],
            **changes
        })
    values = train(runner)
    assert list(runner.model.module.branches) == list(order)
    return values


def another_order(folder, config, rank, size):
    """Two processes that stop and go on, against two that do not."""
    whole = train_in_order(config, f'{folder}/whole', 2, ('resnet', 'vgg'))
    train_in_order(config, f'{folder}/broken', 1, ('resnet', 'vgg'))
    resumed = train_in_order(
        config, f'{folder}/broken', 2, ('vgg', 'resnet'), resume=True)
    # Each has a disk of its own, and rank 0 alone has written to it.
    with pytest.raises(ConfigError, match='not find the same checkpoint'):
        train_in_order(
            config,
            f'{folder}/{("broken", "other")[rank]}',
            3, ('vgg', 'resnet'),
            resume=True)
    return whole, resumed


def steady(config, work_dir, size, epochs, **changes):
    """A run whose steps are of 12 images, whoever has them."""
    return build(
        config, work_dir, 'pytorch' if size > 1 else 'none', **{
            'model.branches':
            STEADY,
            'model.teacher':
            dict(type='mcod_plugin.EnsembleTeacher', ema=.9),
            'custom_hooks': [
                dict(
                    type='mcod_plugin.DiscontinuousKDHook',
                    gap=(1, 0),
                    weight=(1., 2.)),
                dict(type='EMAHook', momentum=.1)
            ],
            'train_dataloader.batch_size':
            12 // size,
            'train_dataloader.dataset.indices':
            48,
            'train_dataloader.dataset.pipeline': [dict(type='PackInputs')],
            'train_cfg.max_epochs':
            epochs,
            'param_scheduler': [dict(type='CosineAnnealingLR', end=4)],
            **changes
        })


def begin(folder, config, rank, size):
    torch.set_default_dtype(torch.float64)
    train(steady(config, f'{folder}/begun_{size}', size, 2))


def go_on(folder, config, rank, size):
    """To the end, from where each number of processes has stopped; with none,
    unbroken."""
    torch.set_default_dtype(torch.float64)
    found = {}
    for before in set(SIZES) - {size}:
        work_dir = f'{folder}/{before}_to_{size}'
        if rank == 0:
            shutil.copytree(f'{folder}/begun_{before}', work_dir)
        if size > 1:
            dist.barrier()
        found[before] = train(steady(config, work_dir, size, 4, resume=True))
    if size == 1:
        found[0] = train(steady(config, f'{folder}/unbroken', 1, 4))
    return found


def validate(folder, config, rank, size):
    torch.set_default_dtype(torch.float64)
    loader = Config.fromfile(config).test_dataloader
    loader.dataset.update(indices=IMAGES, split='test')
    loader.batch_size = 40
    runner = steady(
        config,
        f'{folder}/validated_{size}',
        size,
        1,
        test_dataloader=loader,
        test_evaluator=[
            dict(
                type='mcod_plugin.BranchMetrics',
                topk=(1, 3),
                calibration_bins=15,
                metric=dict(type='SingleLabelMetric')),
            dict(type='Accuracy'),
            dict(type='Indices')
        ])
    model = getattr(runner.model, 'module', runner.model)
    torch.manual_seed(0)
    for value in model.parameters():
        # Predictions that are none too sure.
        torch.nn.init.normal_(value, std=.2)
    return runner.test()


# Settings that do not go with several processes, by what is said of them.
REFUSED = {
    'cuda_graph=True does not go with several processes': {
        'cuda_graph': True
    },
    'bucket_cap_mb must be at least 1 with compile; got 0.5': {
        'compile': True,
        'model_wrapper_cfg': dict(bucket_cap_mb=.5)
    },
    'static_graph=True does not go with optim_wrapper.accumulative_counts': {
        'model_wrapper_cfg': dict(static_graph=True),
        'optim_wrapper.accumulative_counts': 2
    },
    'bucket_cap_mb must be a finite number greater than 0; got 0': {
        'model_wrapper_cfg': dict(bucket_cap_mb=0)
    },
    'type DistributedDataParallel does not train a model as a whole': {
        'model_wrapper_cfg': dict(type='DistributedDataParallel')
    },
    'type MMSeparateDistributedDataParallel does not train a model': {
        'model_wrapper_cfg': dict(type='MMSeparateDistributedDataParallel')
    },
}


def refusals(folder, config, rank, size):
    """What is said of settings that do not go with several processes."""
    from mcod_plugin.engine.graph import graph_setting
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tape import TapeRecorder

    # As if there was a GPU.
    graph_setting.make_recorder = lambda runner: TapeRecorder(
        runner.model.module, runner.optim_wrapper)
    found = []
    for changes in REFUSED.values():
        runner = None
        try:
            runner = build(config, f'{folder}/refused', **changes)
            runner.train()
        except ConfigError as error:
            found.append((str(error), bool(runner and runner.started)))
    runner = build(
        config,
        f'{folder}/allowed',
        model_wrapper_cfg=dict(bucket_cap_mb=2),
        find_unused_parameters=True)
    wrapper = runner.model
    found.append({
        key: getattr(wrapper, key)
        for key in ('bucket_bytes_cap', 'broadcast_buffers',
                    'find_unused_parameters', 'gradient_as_bucket_view')
    })
    return found


JOBS = [(another_order, (2, )), (begin, SIZES), (go_on, SIZES),
        (validate, VALIDATED), (refusals, (2, ))]


def do_all(folder, config):
    """What each of the processes does: all jobs, in groups of fewer of them.

    Returns:
        dict: By the job's name and the number of processes what the first of
        them has found.
    """
    rank, found = dist.get_rank(), {}
    dist.destroy_process_group()
    for job, sizes in JOBS:
        for size in sizes:
            if rank >= size:
                continue
            if size > 1:
                dist.init_process_group(
                    'gloo',
                    init_method=f'file://{folder}/{job.__name__}_{size}',
                    rank=rank,
                    world_size=size)
            try:
                found[job.__name__, size] = job(folder, config, rank, size)
            finally:
                torch.set_default_dtype(torch.float32)
            if size > 1:
                dist.destroy_process_group()
    return found if rank == 0 else None


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('runs')


@pytest.fixture(scope='module')
def found(folder, ranks):
    """What :func:`do_all` gives."""
    from ..tiny import TINY
    (folder / 'tiny.py').write_text(TINY)
    return ranks(do_all, folder, folder / 'tiny.py', size=max(VALIDATED))[0]


def test_branches_in_another_order(found, folder):
    whole, resumed = found['another_order', 2]
    assert whole.keys() == resumed.keys()
    for key, value in whole.items():
        assert torch.equal(resumed[key], value), key
    checkpoint = torch.load(folder / 'broken/epoch_2.pth', weights_only=True)
    names = [
        name for group in checkpoint['optimizer']['param_groups']
        for name in group['param_names']
    ]
    assert sorted(names) == sorted(key for key in whole if '/' not in key)
    assert len(whole) > 2 * len(names)


@pytest.mark.parametrize('before, size',
                         list(itertools.permutations(SIZES, 2)))
def test_another_number_goes_on(found, folder, before, size):
    """As one process that was never stopped, averages of weights too."""
    whole, resumed = found['go_on', 1][0], found['go_on', size][before]
    assert whole.keys() == resumed.keys()
    begun = torch.load(
        folder / f'begun_{before}/epoch_2.pth', weights_only=True)
    key = 'branches.alexnet.head.fc.weight'
    assert not torch.equal(begun['state_dict'][key], whole[key])
    ends = [
        torch.load(folder / name / 'epoch_4.pth', weights_only=True)
        for name in ('unbroken', f'{before}_to_{size}')
    ]
    pairs = [(whole, resumed)]
    for key in ('state_dict', 'ema_state_dict'):
        pairs.append([end[key] for end in ends])
    for expected, values in pairs:
        assert expected.keys() == values.keys()
        for key, value in expected.items():
            torch.testing.assert_close(
                values[key], value, rtol=1e-9, atol=1e-12, msg=key)


@pytest.mark.parametrize('size', VALIDATED)
def test_every_image_is_validated_once(found, size):
    """Also where some of the ranks have one less than others."""
    expected, metrics = found['validate', 1], found['validate', size]
    assert metrics['images/indices'] == list(range(IMAGES))
    assert metrics.keys() == expected.keys() and len(metrics) > 12
    for key in metrics.keys() - {'images/indices'}:
        assert metrics[key] == pytest.approx(expected[key], rel=1e-12), key
    assert 0 < metrics['alexnet/top1'] < 100
    assert metrics['diversity/disagreement'] > 0


def test_what_does_not_go_with_several_processes(found):
    *refused, allowed = found['refusals', 2]
    for (text, started), words in zip(refused, REFUSED, strict=True):
        assert words in text and '\n' not in text and not started
    assert allowed == dict(
        bucket_bytes_cap=2 * 2**20,
        broadcast_buffers=False,
        find_unused_parameters=True,
        gradient_as_bucket_view=True)
