"""The rival is the toolbox as its users know it."""
import torch
from mmengine.runner import Runner

from mcod_plugin.benchmark.toolbox import solo_runner, toolbox_loader


def test_solo_runner_is_the_toolbox(tiny_config, tmp_path):
    cfg = tiny_config()
    runner = solo_runner(cfg, 'resnet', 2, str(tmp_path / 'work'))
    assert type(runner) is Runner
    model = runner.model
    assert type(model).__name__ == 'ImageClassifier'
    assert type(model.data_preprocessor).__name__ == 'ClsDataPreprocessor'
    assert model.data_preprocessor.mean.flatten().tolist() == [78.] * 3
    assert all(value.is_contiguous() and value.dtype == torch.float32
               for value in model.parameters())
    wrapper = runner.build_optim_wrapper(runner.cfg.optim_wrapper)
    assert type(wrapper).__name__ == 'OptimWrapper'
    assert type(wrapper.optimizer).__name__ == 'SGD'
    assert wrapper.optimizer.defaults['lr'] == .05
    assert wrapper.optimizer.defaults['fused'] is None
    names = {type(hook).__name__ for hook in runner.hooks}
    assert {
        'IterTimerHook', 'LoggerHook', 'ParamSchedulerHook', 'CheckpointHook',
        'DistSamplerSeedHook', 'VisualizationHook'
    } <= names
    assert not any('Cohort' in name or 'KD' in name for name in names)
    for loader in (runner.train_dataloader, runner.val_dataloader):
        assert type(loader.dataset).__name__ == 'Digits'
        assert (loader.num_workers, loader.persistent_workers) == (2, True)
        assert loader.batch_size == 16
        assert loader.collate_fn.func.__name__ == 'default_collate'
    assert [
        type(step).__name__
        for step in runner.train_dataloader.dataset.pipeline.transforms
    ] == ['RandomCrop', 'PackInputs']
    assert type(runner.val_evaluator.metrics[0]).__name__ == 'Accuracy'


def test_solo_stays_plain_in_mixed_precision(tiny_config, tmp_path):
    cfg = tiny_config(
        **{
            'optim_wrapper.type': 'mcod_plugin.AutocastOptimWrapper',
            'optim_wrapper.clip_grad': dict(max_norm=1)
        })
    runner = solo_runner(cfg, 'vit', 0, str(tmp_path / 'work'))
    assert runner.cfg.optim_wrapper == dict(
        type='OptimWrapper',
        optimizer=cfg.optim_wrapper.optimizer,
        clip_grad=dict(max_norm=1))


def test_toolbox_loader_restores_sources_that_are_wrapped():
    inner = dict(
        type='mcod_plugin.InMemoryDataset',
        source='CIFAR10',
        device='cpu',
        max_gib=1,
        split='train')
    loader = dict(
        batch_size=4, dataset=dict(type='RepeatDataset', dataset=inner))
    found = toolbox_loader(loader, 0)
    assert found['dataset']['dataset'] == dict(type='CIFAR10', split='train')
    assert (found['num_workers'], found['persistent_workers']) == (0, False)
    assert inner['source'] == 'CIFAR10'
