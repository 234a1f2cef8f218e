import pytest
from mmengine.config import Config

from mcod_plugin.config.model_config import model_config


def crop(size):
    return dict(
        dataset=dict(pipeline=[dict(type='RandomCrop', crop_size=size)]))


@pytest.mark.parametrize('given, settings, expected', [
    ({}, {}, {}),
    ({}, dict(data_preprocessor=dict(mean=[1.])),
     dict(data_preprocessor=dict(mean=[1.]))),
    (dict(data_preprocessor=dict(mean=[2.])),
     dict(data_preprocessor=dict(mean=[1.])), {}),
    ({}, dict(train_dataloader=crop(64)), dict(input_size=64)),
    ({}, dict(train_dataloader=crop(64),
              test_dataloader=crop(48)), dict(input_size=48)),
    (dict(input_size=32), dict(train_dataloader=crop(64)), {}),
])
def test_what_comes_from_the_config(given, settings, expected):
    model = dict(type='Cohort', branches=dict(a=dict()), **given)
    cfg = Config(dict(model=model, **settings))
    assert model_config(cfg) == dict(model, **expected)
    assert cfg.model == model
