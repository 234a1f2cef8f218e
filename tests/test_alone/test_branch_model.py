import json

import numpy as np
import onnxruntime
import pytest
import torch

from mcod_plugin.alone.branch_model import BranchModel
from mcod_plugin.alone.classifier_config import stand_alone
from mcod_plugin.errors import ConfigError
from mcod_plugin.export.onnx_format import write_onnx
from mcod_plugin.alone.files import write_timm
from mcod_plugin.models.utils.build_branch import build_branch

MEAN, STD = (10., 100., 200.), (50., 60., 70.)


@pytest.fixture
def make():
    """Makes a branch with weights at random."""
    cfg = dict(
        backbone=dict(
            type='TIMMBackbone', model_name='resnet18', channels=(4, 4, 8, 8)),
        head=dict(type='LinearClsHead', num_classes=5))
    classifier, _ = build_branch('net', cfg, (32, 32), 3)
    classifier.eval()

    def build(data_order='RGB', to_rgb=False):
        return BranchModel(
            name='net',
            classifier=classifier,
            config=stand_alone('net', cfg, classifier),
            preprocessor={},
            test_settings={},
            imports=[],
            num_classes=5,
            input_shape=(3, 32, 32),
            mean=MEAN,
            std=STD,
            data_order=data_order,
            to_rgb=to_rgb)

    return build


ORDERS = [('RGB', False, 'RGB'), ('BGR', True, 'RGB'), ('BGR', False, 'BGR'),
          ('RGB', True, 'BGR')]


@pytest.mark.parametrize('data_order, to_rgb, expected', ORDERS)
def test_onnx_takes_rgb(make, tmp_path, data_order, to_rgb, expected):
    model = make(data_order, to_rgb)
    assert model.channel_order == expected
    write_onnx(model, str(tmp_path))
    session = onnxruntime.InferenceSession(tmp_path / 'model.onnx')
    images = np.random.default_rng(0).uniform(0, 255, (3, 3, 32, 32))
    seen = images if expected == 'RGB' else images[:, ::-1]
    seen = (seen - np.reshape(MEAN, (3, 1, 1))) / np.reshape(STD, (3, 1, 1))
    with torch.no_grad():
        wanted = model.classifier(torch.from_numpy(seen).float()).numpy()
    found = session.run(None, {'images': images.astype(np.float32)})[0]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize('data_order, to_rgb, expected', ORDERS)
def test_timm_gives_rgb_only(make, tmp_path, data_order, to_rgb, expected):
    model = make(data_order, to_rgb)
    if expected == 'BGR':
        with pytest.raises(ConfigError, match='branch net sees BGR images'):
            write_timm(model, str(tmp_path))
        assert list(tmp_path.iterdir()) == []
    else:
        write_timm(model, str(tmp_path))
        config = json.loads((tmp_path / 'config.json').read_text())
        assert config['pretrained_cfg']['input_size'] == [3, 32, 32]
        assert 'label_names' not in config


def test_what_the_plugin_is_needed_for(make):
    model = make()
    assert not model.needs_plugin and not model.tests_need_plugin
    model.preprocessor = dict(type='mcod_plugin.Own')
    assert model.needs_plugin
    model.test_settings = dict(
        test_dataloader=dict(dataset=dict(type='mcod_plugin.Digits')))
    assert model.tests_need_plugin
