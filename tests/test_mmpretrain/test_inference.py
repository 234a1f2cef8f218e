"""The toolbox's Python interfaces on a cohort's config and checkpoint."""
import mmcv
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmpretrain import (ImageClassificationInferencer, get_model,
                        inference_model)
from mmpretrain.apis.model import ModelHub

from mcod_plugin.registry import RUNNERS


@pytest.fixture
def cohort(tiny_config):
    """A config file and a checkpoint of a tiny run."""
    cfg = tiny_config(epochs=1)
    cfg.custom_imports = dict(
        imports=['mcod_plugin'], allow_failed_imports=False)
    RUNNERS.build(cfg).train()
    path = f'{cfg.work_dir}/cohort.py'
    cfg.dump(path)
    return path, f'{cfg.work_dir}/epoch_1.pth'


@pytest.fixture
def images():
    """Images as the data have them, ``(H, W, C)`` of uint8."""
    generator = np.random.default_rng(0)
    return list(generator.integers(0, 256, (5, 16, 16, 3), dtype=np.uint8))


def probabilities(model, images):
    """Those of each branch and of the ensemble, from the formula: the mean of
    the logits of normalised images."""
    batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    batch = (batch.float() - 78) / 96
    with torch.no_grad():
        logits = {
            name: branch(batch)
            for name, branch in model.branches.items()
        }
    logits['ensemble'] = sum(logits.values()) / len(logits)
    return {name: value.softmax(1) for name, value in logits.items()}


@pytest.mark.parametrize('batch_size', [1, 3])
def test_inferencer(cohort, images, batch_size):
    inferencer = ImageClassificationInferencer(
        cohort[0], pretrained=cohort[1], device='cpu')
    expected = probabilities(inferencer.model, images)
    results = inferencer(images, batch_size=batch_size)
    assert len(results) == len(images)
    for result, scores in zip(results, expected['ensemble']):
        np.testing.assert_allclose(
            result['pred_scores'], scores, rtol=1e-4, atol=1e-6)
        assert result['pred_label'] == int(scores.argmax())
        assert result['pred_score'] == pytest.approx(float(scores.max()), 1e-4)
        # named by the data set, by way of the checkpoint
        assert result['pred_class'] == str(result['pred_label'])
    # a single branch
    samples = inferencer(
        images, return_datasamples=True, batch_size=batch_size)
    for name in ('resnet', 'vit'):
        scores = torch.stack(
            [sample.get(f'pred_score_{name}') for sample in samples])
        torch.testing.assert_close(
            scores, expected[name], rtol=1e-4, atol=1e-6)


def test_file_of_an_image(cohort, images, tmp_path):
    """It is read as BGR, for a model of RGB images."""
    cfg = Config.fromfile(cohort[0])
    scores = probabilities(get_model(*cohort), images[:1])['ensemble'][0]
    path = str(tmp_path / 'image.png')
    mmcv.imwrite(images[0][..., ::-1], path)
    rgb = mmcv.imread(path, channel_order='rgb')
    for image, to_rgb in ((rgb, False), (path, True)):
        cfg.model.data_preprocessor.to_rgb = to_rgb
        inferencer = ImageClassificationInferencer(cfg, cohort[1])
        (result, ) = inferencer(image, show_dir=str(tmp_path / 'shown'))
        np.testing.assert_allclose(
            result['pred_scores'], scores, rtol=1e-4, atol=1e-6)
    assert (tmp_path / 'shown' / 'image.png').is_file()


def test_inference_model_by_name(monkeypatch, cohort, images):
    """Of a model that the hub knows, with a checkpoint of one's own."""
    entry = ModelHub.get('mcod_quickstart')
    entry.config = Config.fromfile(cohort[0])
    monkeypatch.setitem(ModelHub._models_dict, 'mcod_quickstart', entry)
    result = inference_model(
        'mcod_quickstart', images[0], pretrained=cohort[1], device='cpu')
    scores = probabilities(get_model(*cohort), images[:1])['ensemble'][0]
    np.testing.assert_allclose(
        result['pred_scores'], scores, rtol=1e-4, atol=1e-6)


def test_config_that_leaves_the_size_to_its_networks(tiny_config, images):
    """The transformer takes images of 16 pixels and no others, and here are
    no data to say so."""
    cfg = tiny_config(epochs=1, **{'model.input_size': None})
    cfg.model.pop('input_size')
    path = f'{cfg.work_dir}_cohort.py'
    cfg.dump(path)
    RUNNERS.build(cfg).train()
    model = get_model(path, f'{cfg.work_dir}/epoch_1.pth')
    assert model.input_size == (16, 16)
    inferencer = ImageClassificationInferencer(model)
    scores = probabilities(model, images)['ensemble']
    np.testing.assert_allclose(
        [result['pred_scores'] for result in inferencer(images)],
        scores,
        rtol=1e-4,
        atol=1e-6)


def test_checkpoint_of_another_cohort(cohort, tmp_path):
    checkpoint = torch.load(cohort[1], weights_only=True)
    state = checkpoint['state_dict']
    checkpoint['state_dict'] = {
        key.replace('vit', 'swin'): value
        for key, value in state.items()
    }
    path = str(tmp_path / 'other.pth')
    torch.save(checkpoint, path)
    with pytest.raises(Exception, match='vit'):
        get_model(cohort[0], path)


def test_activations_of_a_branch(cohort, images):
    """A class activation map of the ensemble at a layer of a branch is that
    of the branch: the mean of logits passes on its gradient, in equal
    parts."""
    model = get_model(*cohort)
    layer = model.get_submodule('branches.resnet.backbone.stages.2')
    batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float()

    def gradient(network):
        kept = []
        handle = layer.register_forward_hook(
            lambda module, args, output: kept.append(output))
        logits = network(batch)
        handle.remove()
        return torch.autograd.grad(logits[:, 4].sum(), kept)[0]

    own = gradient(model.branches['resnet'])
    torch.testing.assert_close(2 * gradient(model), own)
    assert own.abs().max() > 0
