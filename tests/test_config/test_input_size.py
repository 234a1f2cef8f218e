import pytest

from mcod_plugin.config.input_size import (data_input_size, parse_input_size,
                                           pipeline_input_size)
from mcod_plugin.errors import ConfigError


CROP = dict(type='RandomCrop', crop_size=48)


def views(one, other):
    return dict(
        type='mcod_plugin.BranchViews', pipelines=dict(a=one, b=other))


@pytest.mark.parametrize('value, expected', [
    (32, (32, 32)),
    ((32, 48), (32, 48)),
    ([64, 1], (64, 1)),
])
def test_parse(value, expected):
    assert parse_input_size('model.input_size', value) == expected


@pytest.mark.parametrize(
    'value', [0, -32, 32., '32', True, None, (), (32, ), (32, 32, 3),
              (32, 0), (32, '32')])
def test_parse_refuses(value):
    with pytest.raises(ConfigError, match='^model.input_size must') as info:
        parse_input_size('model.input_size', value)
    assert str(info.value).endswith(f'got {value!r}')


@pytest.mark.parametrize('pipeline, expected', [
    ([], None),
    ([dict(type='PackInputs')], None),
    ([dict(type='RandomCrop', crop_size=32, padding=4)], 32),
    ([dict(type='RandomResizedCrop', scale=224)], 224),
    ([dict(type='ResizeEdge', scale=256),
      dict(type='CenterCrop', crop_size=224)], 224),
    # the last one decides
    ([dict(type='Resize', scale=64),
      dict(type='RandomCrop', crop_size=48)], 48),
    ([dict(type='RandomCrop', crop_size=48),
      dict(type='mmpretrain.Resize', scale=64)], 64),
    # (width, height) or (height, width), as the toolbox has it
    ([dict(type='Resize', scale=(48, 32))], (32, 48)),
    ([dict(type='CenterCrop', crop_size=(48, 32))], (32, 48)),
    ([dict(type='RandomCrop', crop_size=(32, 48))], (32, 48)),
    ([dict(type='RandomResizedCrop', scale=[32, 48])], (32, 48)),
    ([dict(type='RandomFlip', prob=.5),
      dict(type='EfficientNetRandomCrop', scale=240)], 240),
    # of views that branches have of their own
    ([dict(type='Resize', scale=64),
      views([dict(type='RandomCrop', crop_size=48)], [CROP])], 48),
    ([CROP, views([], [])], 48),
    ([CROP, views([], [dict(type='RandomCrop', crop_size=32)])], None),
])
def test_pipeline(pipeline, expected):
    assert pipeline_input_size(pipeline) == expected


def test_data_within_wrappers():
    crop = dict(pipeline=[dict(type='RandomCrop', crop_size=48)])
    for dataset in (crop, dict(dataset=crop), dict(datasets=[crop]),
                    dict(dataset=dict(datasets=[crop]), pipeline=None)):
        assert data_input_size([None, dict(dataset=dataset)]) == 48
    assert data_input_size([None, {}, dict(dataset=dict(pipeline=[]))]) is None
