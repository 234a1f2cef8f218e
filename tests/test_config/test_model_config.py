import pytest
from mmengine.config import Config

from mcod_plugin.config.model_config import model_config, preprocessor_config


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


@pytest.mark.parametrize(
    'model, top, expected',
    [
        (None, None, {}),
        (None, dict(mean=[1.]), dict(mean=[1.])),
        ({}, dict(mean=[1.]), dict(mean=[1.])),
        (dict(data_preprocessor=dict(mean=[2.])), dict(mean=[1.]),
         dict(mean=[2.])),
        # MMEngine does not look further either.
        (dict(data_preprocessor=None), dict(mean=[1.]), {}),
        (dict(train_cfg=dict(augments=[])), dict(mean=[1.]),
         dict(mean=[1.], batch_augments=dict(augments=[]))),
        (dict(
            data_preprocessor=dict(batch_augments=dict(a=1)),
            train_cfg=dict(augments=[])), None,
         dict(batch_augments=dict(a=1))),
    ])
def test_preprocessor(model, top, expected):
    cfg = Config(dict(model=model, data_preprocessor=top))
    assert preprocessor_config(cfg) == expected
