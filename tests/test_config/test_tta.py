import pytest
import torch
from mmengine.config import Config

from mcod_plugin.config.tta import use_tta
from mcod_plugin.errors import ConfigError
from mcod_plugin.registry import RUNNERS


def test_mirror_images(tiny_config):
    """Without settings of its own it is the image and its mirror image, of
    data in memory as of any other."""
    for in_memory in (True, False):
        cfg = tiny_config(in_memory=in_memory)
        pipeline = cfg.test_dataloader.dataset.pipeline
        images = next(
            iter(RUNNERS.build(cfg).test_dataloader))['inputs'].clone()
        use_tta(cfg)
        assert cfg.model.type == 'mcod_plugin.CohortTTA'
        assert 'branches' in cfg.model.module
        # That of the other data stays.
        assert cfg.val_dataloader.dataset.pipeline == pipeline
        batch = next(iter(RUNNERS.build(cfg).test_dataloader))
        mirrored, same = batch['inputs']
        assert torch.equal(same, images)
        assert torch.equal(mirrored, images.flip(-1))
        for samples in batch['data_samples']:
            assert [sample.sample_idx for sample in samples] == [*range(16)]
            assert all(len(sample.gt_label) == 1 for sample in samples)


def test_settings_of_the_config():
    cfg = Config(
        dict(
            model=dict(branches=dict()),
            tta_model=dict(type='Mine'),
            tta_pipeline=[dict(type='Any')],
            test_dataloader=dict(dataset=dict(pipeline=[dict(type='X')]))))
    use_tta(cfg)
    assert cfg.model == dict(type='Mine', module=dict(branches=dict()))
    assert cfg.test_dataloader.dataset.pipeline == [dict(type='Any')]


@pytest.mark.parametrize('dataset', [
    dict(type='RepeatDataset', dataset=dict(pipeline=[dict(type='X')])),
    dict(type='CIFAR10', pipeline=[]),
    dict(),
    3,
])
def test_no_pipeline(dataset):
    cfg = Config(
        dict(
            model=dict(branches=dict()),
            test_dataloader=dict(dataset=dataset)))
    with pytest.raises(ConfigError, match='^--tta: .* without one$'):
        use_tta(cfg)
