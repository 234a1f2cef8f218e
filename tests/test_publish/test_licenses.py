"""Whose weights a cohort began with."""
import pytest
from mmengine.config import Config

from mcod_plugin.publish.licenses import Start, member_license, start_weights
from mcod_plugin.publish.trained_run import TrainedRun

PLAIN = dict(backbone=dict(type='ResNet_CIFAR', depth=18))


def run_of(branches, content=None, **settings):
    """A run of such branches."""
    model = dict(branches=branches, **settings.pop('model', {}))
    return TrainedRun('work', Config(dict(model=model, **settings)), 'a.pth',
                      content or {}, {})


def timm_branch(name, **settings):
    backbone = dict(type='TIMMBackbone', model_name=name, **settings)
    return dict(backbone=backbone)


def test_from_scratch():
    run = run_of(dict(one=PLAIN, other=timm_branch('resnet18')))
    assert start_weights(run) == []


@pytest.mark.parametrize('network, weights, license', [
    ('resnet18.a1_in1k', 'timm/resnet18.a1_in1k', 'apache-2.0'),
    ('convnextv2_atto', 'timm/convnextv2_atto.fcmae_ft_in1k', 'cc-by-nc-4.0'),
    ('hf-hub:timm/resnet18.a1_in1k', 'timm/resnet18.a1_in1k', 'apache-2.0'),
    ('hf-hub:someone/resnet18', 'someone/resnet18', None),
    ('resnet18.no_such_tag', 'timm/resnet18.no_such_tag', None),
])
def test_timm_tells_the_licence(network, weights, license):
    run = run_of(dict(one=PLAIN, other=timm_branch(network, pretrained=True)))
    # They lie on the hub by the name that they are told by.
    assert start_weights(run) == [('other', weights, license, weights)]


@pytest.mark.parametrize('settings, told', [
    (dict(checkpoint_path='/home/me/own.pth'), 'own.pth'),
    (dict(pretrained=True, checkpoint_path='/home/me/own.pth'), 'own.pth'),
    (dict(pretrained=True,
          pretrained_cfg_overlay=dict(file='own.pth')), 'resnet18'),
])
def test_other_weights_of_a_network_of_timm(settings, told):
    run = run_of(dict(one=timm_branch('resnet18', **settings)))
    assert start_weights(run) == [Start('one', told)]


@pytest.mark.parametrize('source, told', [
    ('/home/me/secret/weights.pth', 'weights.pth'),
    ('file:///home/me/secret/weights.pth', 'weights.pth'),
    ('file://host/home/me/weights.pth', 'weights.pth'),
    ('//home/me/weights.pth', 'weights.pth'),
    ('torchvision://resnet18', 'torchvision://resnet18'),
    ('resnet18', 'resnet18'),
    ('https://me:token@example.com/a/weights.pth?signature=secret',
     'https://example.com/a/weights.pth'),
])
def test_other_weights(source, told):
    branch = dict(PLAIN, init_cfg=dict(type='Pretrained', checkpoint=source))
    assert start_weights(run_of(dict(one=branch))) == [Start('one', told)]


def test_weights_of_the_whole_cohort():
    init = dict(init_cfg=dict(type='Pretrained', checkpoint='all.pth'))
    wanted = [Start('a', 'all.pth'), Start('b', 'all.pth')]
    branches = dict(a=PLAIN, b=PLAIN)
    told = dict(message_hub=dict(runtime_info=dict(load_from='x/all.pth')))
    for settings in (
            dict(model=init),
            dict(load_from='/home/me/all.pth'),
            # What a run goes on from is no start.
            dict(content=told, resume=True, load_from='epoch_2.pth')):
        assert start_weights(run_of(branches, **settings)) == wanted


def test_several_sources_of_a_branch():
    """What is loaded later may leave out what was loaded before."""
    run = run_of(
        dict(a=timm_branch('resnet18', pretrained=True), b=PLAIN),
        load_from='/home/me/all.pth')
    found = [start[:2] for start in start_weights(run)]
    assert found == [('a', 'timm/resnet18.a1_in1k'), ('a', 'all.pth'),
                     ('b', 'all.pth')]


@pytest.mark.parametrize('given, licenses, frozen, wanted', [
    (None, [], False, 'unknown'),
    ('mit', [], False, 'mit'),
    ('mit', ['cc-by-nc-4.0'], False, 'mit'),
    # Nobody gives away under another licence what others have made.
    ('mit', ['cc-by-nc-4.0'], True, 'cc-by-nc-4.0'),
    ('mit', [None], True, 'unknown'),
    ('mit', ['apache-2.0', 'bsd-3-clause'], True, 'unknown'),
    # It has random weights.
    ('mit', [], True, 'mit'),
])
def test_licence_of_a_branch(given, licenses, frozen, wanted):
    starts = [Start('one', 'weights', license) for license in licenses]
    assert member_license(given, starts, frozen) == wanted
