"""Loaders of data that are held in memory."""

import pytest
import torch
import torch.distributed as dist
from mmengine.runner import Runner
from torch.utils.data import BatchSampler

from mcod_plugin.datasets import InMemoryDataset
from mcod_plugin.engine.runner import CohortRunner, cohort_runner
from mcod_plugin.errors import ConfigError
from mcod_plugin.structures import BatchDataSample

DIGITS = dict(
    type='mcod_plugin.InMemoryDataset',
    source='mcod_plugin.Digits',
    indices=20,
    pipeline=[
        dict(type='RandomCrop', crop_size=16, padding=2),
        dict(type='PackInputs')
    ])


def make_config(dataset=DIGITS, **changes):
    return dict(
        dict(
            batch_size=8,
            num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=True),
            dataset=dataset), **changes)


def numbers(loader):
    """The numbers and labels of the images, batch by batch."""
    return [[(sample.sample_idx, int(sample.gt_label))
             for sample in batch['data_samples']] for batch in loader]


# The order of the images


def test_same_order_as_one_by_one(tiny_runner):
    runner = tiny_runner('a')
    other = tiny_runner('b', in_memory=False)
    epochs = []
    for epoch in range(2):
        for loader in (runner.train_dataloader, other.train_dataloader):
            loader.sampler.set_epoch(epoch)
        epochs.append(numbers(runner.train_dataloader))
        assert epochs[-1] == numbers(other.train_dataloader)
        # each image once
        seen = sorted(index for batch in epochs[-1] for index, _ in batch)
        assert seen == list(range(64))
    assert epochs[0] != epochs[1]

    # Without random transforms the images are the same as well.
    sizes = []
    for one, another in zip(runner.val_dataloader, other.val_dataloader):
        assert torch.equal(one['inputs'], another['inputs'])
        sizes.append(len(one['data_samples']))
    assert numbers(runner.val_dataloader) == numbers(other.val_dataloader)
    assert sizes == [16, 16, 8]


@pytest.mark.parametrize('changes, sizes', [
    (dict(), [8, 8, 4]),
    (dict(drop_last=True), [8, 8]),
    (dict(batch_size=20), [20]),
    (dict(batch_size=64), [20]),
    (dict(batch_size=1), [1] * 20),
    (dict(num_batch_per_epoch=2), [8, 8]),
    (dict(batch_sampler=dict(type=BatchSampler, drop_last=True)), [8, 8]),
])
def test_sizes(changes, sizes):
    loader = CohortRunner.build_dataloader(make_config(**changes), seed=0)
    assert [len(batch['inputs']) for batch in loader] == sizes
    assert len(loader) == len(sizes)
    for batch in loader:
        assert type(batch['data_samples']) is BatchDataSample


# No workers


@pytest.mark.parametrize('changes', [
    dict(num_workers=4),
    dict(num_workers=4, persistent_workers=True, pin_memory=True),
    dict(num_workers=2, prefetch_factor=4, timeout=10),
    dict(num_workers=2, multiprocessing_context='spawn'),
    dict(collate_fn=dict(type='default_collate')),
    dict(dataset=dict(DIGITS, type=InMemoryDataset)),
])
def test_settings_for_workers_are_ignored(changes):
    cfg = make_config(**changes)
    given = dict(cfg)
    loader = CohortRunner.build_dataloader(cfg, seed=0)
    assert cfg == given
    assert loader.num_workers == 0 and not loader.pin_memory
    assert not loader.persistent_workers
    assert type(next(iter(loader))['data_samples']) is BatchDataSample


@pytest.mark.parametrize('number', [0, 1])
def test_number_that_this_machine_chooses(monkeypatch, number):
    """PyTorch refuses settings for workers where there are none."""
    monkeypatch.setattr(cohort_runner, 'default_workers', lambda: number)
    cfg = make_config(
        dict(type='mcod_plugin.Digits', pipeline=[dict(type='PackInputs')]),
        persistent_workers=True,
        prefetch_factor=4)
    del cfg['num_workers']
    loader = CohortRunner.build_dataloader(cfg, seed=0)
    assert loader.num_workers == number
    assert loader.persistent_workers is bool(number)


def test_number_may_be_left_out():
    cfg = make_config()
    del cfg['num_workers']
    assert CohortRunner.build_dataloader(cfg).num_workers == 0


def test_a_run_with_workers(tiny_runner):
    changes = {
        f'{name}_dataloader.{key}': value
        for name in ('train', 'val')
        for key, value in (('num_workers', 2), ('persistent_workers', True))
    }
    runner = tiny_runner(epochs=1, **changes)
    runner.train()
    assert runner.train_dataloader.num_workers == 0
    assert runner.val_dataloader.num_workers == 0


def test_under_the_runner_of_mmengine(tiny_config, tiny_runner):
    """The config says all that it needs to know."""
    runner = Runner.from_cfg(tiny_config('a', 1))
    assert type(runner) is Runner
    runner.train()
    other = tiny_runner('b', 1)
    other.train()
    state = other.model.state_dict()
    # Their optimizers round differently.
    torch.testing.assert_close(
        dict(runner.model.state_dict()), dict(state), rtol=1e-3, atol=1e-4)
    accuracy, expected = (
        each.message_hub.get_scalar('val/ensemble/top1').current()
        for each in (runner, other))
    assert accuracy == pytest.approx(expected, abs=2.6)


# Wrappers take one image after the other


def one_by_one(cfg):
    """The same data sets as the toolbox has them."""
    if isinstance(cfg, list):
        return [one_by_one(part) for part in cfg]
    if not isinstance(cfg, dict):
        return cfg
    cfg = {key: one_by_one(value) for key, value in cfg.items()}
    if 'source' in cfg:
        cfg['type'] = cfg.pop('source')
    return cfg


@pytest.mark.parametrize('wrapper', [
    dict(type='RepeatDataset', times=3, dataset=DIGITS),
    dict(
        type='ConcatDataset',
        datasets=[DIGITS, dict(DIGITS, split='test', indices=7)]),
    dict(type='ClassBalancedDataset', oversample_thr=.2, dataset=DIGITS),
    dict(
        type='RepeatDataset',
        times=2,
        dataset=dict(type='ConcatDataset', datasets=[DIGITS])),
])
def test_wrappers(wrapper):
    loader = CohortRunner.build_dataloader(
        make_config(
            wrapper, num_workers=2, persistent_workers=True, pin_memory=True),
        seed=0)
    assert loader.num_workers == 0 and not loader.pin_memory
    other = CohortRunner.build_dataloader(
        make_config(
            one_by_one(wrapper), collate_fn=dict(type='default_collate')),
        seed=0)
    assert len(loader.dataset) == len(other.dataset) > 20
    assert numbers(loader) == numbers(other)
    for batch in loader:
        assert batch['inputs'].dtype == torch.uint8
        assert batch['inputs'].shape[1:] == (3, 16, 16)
        assert len(batch['data_samples']) == len(batch['inputs'])
        assert batch['data_samples'][0].gt_label.shape == (1, )


def test_a_run_with_a_wrapper(tiny_runner, tiny_config):
    digits = tiny_config().train_dataloader.dataset
    runner = tiny_runner(
        epochs=1,
        **{
            'train_dataloader.dataset':
            dict(type='RepeatDataset', times=2, dataset=digits, _delete_=True)
        })
    runner.train()
    assert runner.iter == 2 * 64 / 16


# Mistakes


def test_missing_data(tmp_path):
    dataset = dict(
        DIGITS,
        source='CIFAR100',
        data_root=str(tmp_path),
        split='train',
        download=False)
    with pytest.raises(ConfigError) as info:
        CohortRunner.build_dataloader(make_config(dataset))
    message = str(info.value)
    assert f'data set CIFAR100 is missing: looked for {tmp_path}/' in message
    assert '\n' not in message


# Two processes


@pytest.mark.skipif(
    not dist.is_available() or not dist.is_gloo_available(),
    reason='needs gloo')
def test_two_processes(ranks):
    first, second = ranks(load_share)
    sampler = CohortRunner.build_dataloader(make_config(), seed=0).sampler
    for epoch, halves in enumerate(zip(first, second)):
        sampler.set_epoch(epoch)
        assert not set(halves[0]) & set(halves[1])
        # of the permutation that one process has
        assert [index for pair in zip(*halves)
                for index in pair] == list(sampler)
    assert first[0] != first[1]


def load_share():
    """What each of the processes does."""
    loader = CohortRunner.build_dataloader(make_config(), seed=0)
    epochs = []
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        epochs.append(
            [index for batch in numbers(loader) for index, _ in batch])
    return epochs
