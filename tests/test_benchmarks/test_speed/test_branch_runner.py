"""The rival is MMPretrain as its users know it."""
import numpy as np
import pytest
import timm
import torch
from mmengine.dataset import Compose
from mmengine.runner import Runner
from mmpretrain.registry import TRANSFORMS

from mcod_plugin.engine.runner import CohortRunner
from mcod_plugin.errors import ConfigError
from speed.branch_runner import branch_loader, branch_runner


def test_runner_is_that_of_mmpretrain(tiny_config, tmp_path):
    cfg = tiny_config()
    runner = branch_runner(cfg, 'resnet', 2, str(tmp_path / 'work'))
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
    runner = branch_runner(cfg, 'vit', 0, str(tmp_path / 'work'))
    assert runner.cfg.optim_wrapper == dict(
        type='OptimWrapper',
        optimizer=cfg.optim_wrapper.optimizer,
        clip_grad=dict(max_norm=1))


def test_branch_loader_restores_sources_that_are_wrapped():
    inner = dict(
        type='mcod_plugin.InMemoryDataset',
        source='CIFAR10',
        device='cpu',
        max_gib=1,
        split='train')
    loader = dict(
        batch_size=4, dataset=dict(type='RepeatDataset', dataset=inner))
    found = branch_loader(loader, 0)
    assert found['dataset']['dataset'] == dict(type='CIFAR10', split='train')
    assert (found['num_workers'], found['persistent_workers']) == (0, False)
    assert inner['source'] == 'CIFAR10'


def test_solo_has_its_own_view(tiny_config, tmp_path):
    pack = dict(type='PackInputs')
    crop = dict(type='RandomCrop', crop_size=16, padding=2)
    views = dict(
        type='mcod_plugin.BranchViews',
        pipelines=dict(resnet=[pack], vit=[crop, pack]))
    for in_memory, changes, steps in (
        (False, dict(pipeline=[views]), ['PackInputs']),
        (True, dict(views=True), ['RandomCrop', 'PackInputs'])):
        cfg = tiny_config(
            in_memory=in_memory,
            **{
                f'train_dataloader.dataset.{key}': value
                for key, value in changes.items()
            })
        runner = branch_runner(cfg, 'resnet', 0, str(tmp_path / 'work'))
        dataset = runner.train_dataloader.dataset
        assert [
            type(step).__name__ for step in dataset.pipeline.transforms
        ] == steps
        assert dataset[0]['inputs'].shape == (3, 16, 16)


@pytest.mark.parametrize('part', [(0, 3), (4, 6), (130, None)])
def test_solo_has_the_images_of_each_class(tiny_config, tmp_path, part):
    changes = {
        'train_dataloader.dataset.per_class': part,
        # It goes without indices.
        'train_dataloader.dataset.indices': None
    }
    cfg = tiny_config(**changes)
    held = CohortRunner.build_dataloader(cfg.train_dataloader).dataset
    runner = branch_runner(cfg, 'resnet', 0, str(tmp_path / 'work'))
    found = runner.train_dataloader.dataset
    assert type(found).__name__ == 'Digits'
    assert len(found) == len(held) >= 10
    for index in range(len(held)):
        mine, other = (data.get_data_info(index) for data in (held, found))
        np.testing.assert_array_equal(mine['img'], other['img'])
        assert mine['gt_label'] == other['gt_label']
    # The config is printed when a runner is built.
    assert len(runner.cfg.pretty_text) < 10_000
    # MMPretrain's own way to choose images gives the same.
    images = branch_loader(tiny_config().train_dataloader, 0)['dataset']
    images['indices'] = None
    source = CohortRunner.build_dataloader(
        dict(cfg.train_dataloader, dataset=images)).dataset
    labels = source.get_gt_labels()
    numbers = sorted(
        number for label in range(10)
        for number in np.flatnonzero(labels == label)[slice(*part)].tolist())
    assert found.get_gt_labels().tolist() == labels[numbers].tolist()
    for index, number in enumerate(numbers):
        np.testing.assert_array_equal(
            found.get_data_info(index)['img'],
            source.get_data_info(number)['img'])


def test_solo_has_the_labels_of_its_classes(tiny_config):
    cfg = tiny_config(
        **{
            'train_dataloader.dataset.classes': ['7', 2],
            'train_dataloader.dataset.per_class': (3, 6),
            'train_dataloader.dataset.indices': None
        })
    held = CohortRunner.build_dataloader(cfg.train_dataloader).dataset
    found = CohortRunner.build_dataloader(
        branch_loader(cfg.train_dataloader, 0)).dataset
    assert type(found).__name__ == 'Digits'
    assert len(found) == len(held) == 6
    for index in range(6):
        label = found[index]['data_samples'].gt_label.item()
        assert label == held.get_data_info(index)['gt_label']
        np.testing.assert_array_equal(
            held.get_data_info(index)['img'],
            found.get_data_info(index)['img'])
    assert held.labels.unique().tolist() == [0, 1]


@pytest.mark.parametrize('part, match', [
    (5, 'per_class of InMemoryDataset must be two whole numbers.* got 5'),
    ((0, 999), 'needs 999 images of each class'),
])
def test_bad_parts_of_each_class(tiny_config, part, match):
    cfg = tiny_config(**{'train_dataloader.dataset.per_class': part})
    with pytest.raises(ConfigError, match=match):
        CohortRunner.build_dataloader(branch_loader(cfg.train_dataloader, 0))


def test_solo_has_the_settings_of_its_branch(tiny_config, tmp_path):
    cfg = tiny_config(
        **{
            'optim_wrapper.optimizer.weight_decay': .01,
            'optim_wrapper.constructor':
            'mcod_plugin.BranchOptimWrapperConstructor',
            'model.branches.resnet.mean': [60., 70., 80.],
            'model.branches.resnet.std': [50., 60., 70.],
            'model.branches.resnet.input_size': (24, 20),
            'model.branches.resnet.lr_mult': .5,
            'model.branches.resnet.decay_mult': 3.,
            'model.branches.resnet.loss_weight': 2.,
        })
    runner = branch_runner(cfg, 'resnet', 0, str(tmp_path / 'work'))
    preprocess = runner.model.data_preprocessor
    assert preprocess.mean.flatten().tolist() == [60, 70, 80]
    assert preprocess.std.flatten().tolist() == [50, 60, 70]
    wrapper = runner.build_optim_wrapper(runner.cfg.optim_wrapper)
    assert wrapper.optimizer.defaults['lr'] == .025
    assert wrapper.optimizer.defaults['weight_decay'] == .03
    for loader in (runner.train_dataloader, runner.val_dataloader):
        assert next(iter(loader))['inputs'].shape[2:] == (24, 20)
    # The others have the cohort's, and the config stays as it is.
    runner = branch_runner(cfg, 'vit', 0, str(tmp_path / 'work'))
    assert runner.model.data_preprocessor.mean.flatten().tolist() == [78.] * 3
    wrapper = runner.build_optim_wrapper(runner.cfg.optim_wrapper)
    assert wrapper.optimizer.defaults['lr'] == .05
    assert next(iter(runner.train_dataloader))['inputs'].shape[2:] == (16, 16)


def test_solo_of_a_frozen_branch_opens_no_checkpoint(tiny_config, tmp_path):
    """It is validated, with weights at random."""
    cfg = tiny_config(
        **{
            'model.branches.resnet.frozen':
            True,
            'model.branches.resnet.init_cfg':
            dict(type='Pretrained', checkpoint='none.pth')
        })
    model = branch_runner(cfg, 'resnet', 0, str(tmp_path / 'work')).model
    model.init_weights()
    assert type(model).__name__ == 'ImageClassifier'


def test_solo_of_grey_images(tiny_config, tmp_path):
    cfg = tiny_config(**{'model.branches.resnet.backbone.in_channels': 1})
    cfg.model.data_preprocessor.update(mean=[78.], std=[96.])
    runner = branch_runner(cfg, 'resnet', 0, str(tmp_path / 'work'))
    assert runner.model.data_preprocessor.mean.numel() == 1


def test_metrics_of_all_kinds_are_those_of_a_branch(tiny_config, tmp_path):
    """Also several of them, and more ranks than there are classes."""
    cfg = tiny_config()
    cfg.val_evaluator = [
        dict(type='mcod_plugin.BranchMetrics', topk=(1, 5, 50)),
        dict(type='SingleLabelMetric')
    ]
    runner = branch_runner(cfg, 'resnet', 0, str(tmp_path / 'work'))
    accuracy, other = runner.val_evaluator.metrics
    assert type(accuracy).__name__ == 'Accuracy'
    assert accuracy.topk == (1, 5)
    assert type(other).__name__ == 'SingleLabelMetric'


def test_mixed_labels_need_no_number_of_classes(tiny_config, tmp_path):
    """The cohort works it out, so its branch alone has it."""
    cfg = tiny_config(
        **{'model.train_cfg': dict(augments=dict(type='Mixup', alpha=1.))})
    runner = branch_runner(cfg, 'resnet', 0, str(tmp_path / 'work'))
    batch = next(iter(runner.train_dataloader))
    found = runner.model.data_preprocessor(batch, True)['data_samples']
    scores = torch.stack([sample.gt_score for sample in found])
    assert scores.shape == (16, 10)
    torch.testing.assert_close(scores.sum(1), torch.ones(16))
    assert (scores.max(1).values < 1).any()


def test_no_weights_are_fetched(tiny_config, tmp_path, monkeypatch):
    """They make nothing faster."""
    asked = []
    create = timm.create_model

    def watch(*args, pretrained=False, **kwargs):
        asked.append(pretrained)
        return create(*args, **kwargs)

    monkeypatch.setattr(timm, 'create_model', watch)
    cfg = tiny_config(**{'model.branches.vit.backbone.pretrained': True})
    branch_runner(cfg, 'vit', 0, str(tmp_path / 'work'))
    assert asked and not any(asked)


def test_grey_images_of_another_size(tiny_config):
    loader = tiny_config(in_memory=False).train_dataloader
    loader = branch_loader(loader, 0, (24, 20), channels=1)
    resized = Compose(
        [TRANSFORMS.build(step) for step in loader.dataset.pipeline[1:]])
    image = np.zeros((16, 16, 1), np.uint8)
    assert resized(dict(img=image))['inputs'].shape == (1, 24, 20)
