"""Whose weights a cohort began with."""
import pytest
from mmengine.config import Config

from mcod_plugin.publish.licenses import published_license, start_weights
from mcod_plugin.publish.trained_run import TrainedRun

PLAIN = dict(backbone=dict(type='ResNet_CIFAR', depth=18))


def run_of(branches, **settings):
    """A run of such branches."""
    model = dict(branches=branches, **settings.pop('model', {}))
    return TrainedRun('work', Config(dict(model=model, **settings)), 'a.pth',
                      {}, {})


def timm_branch(name, **settings):
    backbone = dict(type='TIMMBackbone', model_name=name, **settings)
    return dict(backbone=backbone)


def test_from_scratch():
    run = run_of(dict(one=PLAIN, other=timm_branch('resnet18')))
    assert start_weights(run) == []
    assert published_license([]) == 'apache-2.0'


@pytest.mark.parametrize('network, license, published', [
    ('resnet18.a1_in1k', 'apache-2.0', 'apache-2.0'),
    ('convnextv2_atto.fcmae_ft_in1k', 'cc-by-nc-4.0', 'other'),
])
def test_timm_tells_the_licence(network, license, published):
    run = run_of(dict(one=PLAIN, other=timm_branch(network, pretrained=True)))
    (start, ) = start_weights(run)
    assert start == ('other', f'timm/{network}', license)
    assert published_license([start]) == published


@pytest.mark.parametrize('source, told', [
    ('/home/me/secret/weights.pth', 'weights.pth'),
    ('https://example.com/a/weights.pth', 'https://example.com/a/weights.pth'),
])
def test_other_weights(source, told):
    branch = dict(PLAIN, init_cfg=dict(type='Pretrained', checkpoint=source))
    starts = start_weights(run_of(dict(one=branch)))
    assert starts == [('one', told, None)]
    assert published_license(starts) == 'other'


def test_weights_of_the_whole_cohort():
    init = dict(init_cfg=dict(type='Pretrained', checkpoint='all.pth'))
    for settings in (dict(model=init), dict(load_from='/home/me/all.pth')):
        starts = start_weights(run_of(dict(a=PLAIN, b=PLAIN), **settings))
        assert starts == [('a', 'all.pth', None), ('b', 'all.pth', None)]
